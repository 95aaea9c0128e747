# What a PC's BIOS runs of a disk (BIOS Boot Specification; Linux's Documentation/arch/x86/boot.rst). See the package comment
# for where things stand, and bios.go for the parameters.
#
#   boot     0x7c00  the first 440 bytes of the disk: loads the rest
#   loader   0x8000  what follows the partition table: loads kernel and initrd, starts the kernel
#            0x10000 sectors on their way
#            0x20000 the kernel's own real-mode code; its heap and stack, its command line at 0x2e000

	.code16
	.section .boot, "ax"
	.globl boot
boot:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp
	sti
	cld
	ljmp	$0, $1f
1:	movb	%dl, drive
	movb	$0x41, %ah			# EDD: reading by LBA
	movw	$0x55aa, %bx
	int	$0x13
	jc	2f
	cmpw	$0xaa55, %bx
	jne	2f
	movw	$3, tries
3:	movb	drive, %dl
	movb	$0x42, %ah
	movw	$packet, %si
	int	$0x13
	jnc	4f
	xorb	%ah, %ah			# reset the disk, and again
	movb	drive, %dl
	int	$0x13
	decw	tries
	jnz	3b
2:	movw	$unreadable, %si
	call	print
	int	$0x18				# let the BIOS try another disk
5:	hlt
	jmp	5b
4:	cmpl	$0x6d726166, 0x8000		# "farm"
	jne	2b
	jmp	begin

# print says a text, on the screen and on the first serial port.
print:
	lodsb
	testb	%al, %al
	jz	2f
	pushw	%si
	pushw	%ax
	movb	$0x0e, %ah
	movw	$7, %bx
	int	$0x10
	movw	$0x3fd, %dx
	movw	$0xffff, %cx			# bounded: there may be no such port
1:	inb	%dx, %al
	testb	$0x20, %al
	loopz	1b
	popw	%ax
	movw	$0x3f8, %dx
	outb	%al, %dx
	popw	%si
	jmp	print
2:	ret

unreadable:
	.asciz	"bakefarm: this disk can't be read\r\n"
	.balign	4
packet:
	.byte	16, 0
count:	.word	16				# sectors
offset:	.word	0x8000
segment: .word	0
lba:	.quad	34
drive:	.byte	0
	.balign	2
tries:	.word	0

	.section .loader, "ax"
	.globl loader
loader:
	.ascii	"farm"
# Parameters: bios.go writes them.
setup_lba:	.quad	0
setup_size:	.long	0			# bytes, whole sectors
system_lba:	.quad	0
system_size:	.long	0
initrd_lba:	.quad	0
initrd_size:	.long	0
initrd_lowest:	.long	0			# where it may stand
initrd_end:	.long	0
cmdline:	.word	0			# offset of the command line from loader
	.word	0

begin:
	movw	$0x2401, %ax			# A20, by whichever means there is
	int	$0x15
	inb	$0x92, %al
	orb	$2, %al
	andb	$0xfe, %al
	outb	%al, $0x92

	movw	$loading, %si
	call	print
	call	find_room

	movl	$setup_lba, %esi
	movl	$0x20000, %edi
	call	load
	movl	$system_lba, %esi
	movl	$0x100000, %edi
	call	load
	movl	$initrd_lba, %esi
	movl	initrd_at, %edi
	call	load

	# The kernel's header (boot.rst, "The Real-Mode Kernel Header").
	movw	$0x2000, %ax
	movw	%ax, %es
	movw	$0xffff, %es:0x1fa		# vid_mode: as it is
	movb	$0xff, %es:0x210		# type_of_loader: one without a number
	orb	$0x80, %es:0x211		# CAN_USE_HEAP
	movw	$0xde00, %es:0x224		# heap_end_ptr
	movl	$0x2e000, %es:0x228		# cmd_line_ptr
	movl	initrd_at, %eax
	movl	%eax, %es:0x218
	movl	initrd_size, %eax
	movl	%eax, %es:0x21c
	movw	cmdline, %si
	addw	$loader, %si
	movw	$0xe000, %di
1:	lodsb
	stosb
	testb	%al, %al
	jnz	1b

	cli
	movw	$0x2000, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %fs
	movw	%ax, %gs
	movw	%ax, %ss
	movw	$0xe000, %sp
	ljmp	$0x2020, $0

fail:
	call	print
	int	$0x18
1:	hlt
	jmp	1b

# find_room finds the highest place for the initrd in what the BIOS says is memory (ACPI, "INT 15H, E820H").
find_room:
	xorl	%ebx, %ebx
1:	movl	$0xe820, %eax
	movl	$0x534d4150, %edx
	movl	$24, %ecx
	movw	$range, %di
	int	$0x15
	jc	9f
	cmpl	$0x534d4150, %eax
	jne	9f
	cmpl	$1, range+16			# memory
	jne	8f
	cmpl	$0, range+4			# from 4 GiB on
	jne	8f
	movl	range, %eax
	addl	range+8, %eax
	jc	2f
	cmpl	$0, range+12
	jne	2f
	cmpl	initrd_end, %eax
	jbe	3f
2:	movl	initrd_end, %eax
3:	subl	initrd_size, %eax
	jb	8f
	andl	$0xfffff000, %eax
	cmpl	range, %eax
	jb	8f
	cmpl	initrd_lowest, %eax
	jb	8f
	cmpl	initrd_at, %eax
	jbe	8f
	movl	%eax, initrd_at
8:	testl	%ebx, %ebx
	jnz	1b
9:	cmpl	$0, initrd_at
	jne	1f
	movw	$small, %si
	jmp	fail
1:	ret

# load reads what the parameters at %esi say to memory from %edi on: 8 bytes of LBA, 4 of size.
load:
	movl	(%si), %eax
	movl	%eax, lba
	movl	4(%si), %eax
	movl	%eax, lba+4
	movl	8(%si), %eax
	addl	$511, %eax
	shrl	$9, %eax
	movl	%eax, left
	movl	%edi, to
1:	movl	left, %eax
	testl	%eax, %eax
	jz	9f
	cmpl	$64, %eax
	jbe	2f
	movl	$64, %eax
2:	movw	%ax, count
	movw	$0, offset
	movw	$0x1000, segment
	movw	$3, tries
3:	movb	drive, %dl
	movb	$0x42, %ah
	movw	$packet, %si
	int	$0x13
	jnc	4f
	xorb	%ah, %ah
	movb	drive, %dl
	int	$0x13
	decw	tries
	jnz	3b
	movw	$unreadable, %si
	jmp	fail
4:	movzwl	count, %ecx
	subl	%ecx, left
	addl	%ecx, lba
	adcl	$0, lba+4
	shll	$7, %ecx			# to words of four bytes
	movl	$0x10000, %esi
	movl	to, %edi
	call	copy
	movl	%edi, to
	jmp	1b
9:	ret

# copy moves %ecx words of four bytes from %esi to %edi, which may be above 1 MiB: in protected mode, where %edi is
# moved on.
copy:
	cli
	lgdt	gdt_pointer
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	ljmp	$8, $1f
1:	movw	$16, %bx
	movw	%bx, %ds
	movw	%bx, %es
	addr32 rep movsl
	movw	$24, %bx
	movw	%bx, %ds
	movw	%bx, %es
	movl	%cr0, %eax
	andb	$0xfe, %al
	movl	%eax, %cr0
	ljmp	$0, $2f
2:	xorw	%bx, %bx
	movw	%bx, %ds
	movw	%bx, %es
	sti
	ret

loading:
	.asciz	"bakefarm: loading the kernel\r\n"
small:
	.asciz	"bakefarm: this machine has too little memory for kernel and initrd\r\n"
	.balign	8
gdt:
	.quad	0
	.quad	0x00009b000000ffff		# code, 16 bits
	.quad	0x00cf93000000ffff		# data, all of 4 GiB
	.quad	0x000093000000ffff		# data as in real mode
gdt_pointer:
	.word	31
	.long	gdt
initrd_at:	.long	0
left:	.long	0
to:	.long	0
range:	.fill	24, 1, 0
