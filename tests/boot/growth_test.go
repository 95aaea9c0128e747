package boot

import (
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"bakefarm/compose/disk/gpt"
)

// A machine that was switched off when the root's partition had grown and its filesystem had not goes on at the next start.
func (f *aFarm) growthCutShort(t *testing.T) {
	disk := f.pull(t, f.bake(t, f.recipe(t, "app", skip, "{disk: {size: 2GiB, boot: direct}}", "")))
	start, size := growPartition(t, disk, 4<<30)
	cmdline, err := os.ReadFile(disk + ".cmdline")
	if err != nil {
		t.Fatal(err)
	}
	console := qemu(t, []string{"starting /sbin/init", "listening on :8080"}, "qemu-system-x86_64", "-machine", "q35", "-cpu", "max",
		"-kernel", disk+".kernel", "-initrd", disk+".initrd", "-append", strings.TrimSpace(string(cmdline)),
		"-drive", "format=raw,if=virtio,cache=unsafe,file="+disk)
	if strings.Contains(console, "has grown") {
		t.Error("the partition has grown once more")
	}
	if blocks := blocksOf(t, rootOf(t, disk, start)); blocks != size/4096 {
		t.Errorf("the root has %d blocks, its partition %d", blocks, size/4096)
	}
}

// growPartition makes a disk larger, and lets its last partition reach the new end: where that is, and its new size.
func growPartition(t *testing.T, disk string, to int64) (start, size int64) {
	t.Helper()
	file, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	head := make([]byte, gpt.HeadSize)
	if _, err := io.ReadFull(file, head); err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Decode(head)
	if err != nil {
		t.Fatal(err)
	}
	last := &table.Partitions[len(table.Partitions)-1]
	last.Size = (to-gpt.TailSize)>>20<<20 - last.Start
	head, tail, err := table.Encode(to)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(to); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(head, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(tail, to-gpt.TailSize); err != nil {
		t.Fatal(err)
	}
	return last.Start, last.Size
}

// rootOf takes a disk's root, which begins at an offset in bytes, into a file of its own, and checks it.
func rootOf(t *testing.T, disk string, start int64) string {
	t.Helper()
	root := disk + ".root"
	if out, err := exec.Command("dd", "if="+disk, "of="+root, "bs=1M", "skip="+strconv.FormatInt(start>>20, 10), "conv=sparse", "status=none").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("e2fsck", "-fp", root).CombinedOutput(); err != nil && err.(*exec.ExitError).ExitCode() > 1 {
		t.Errorf("e2fsck: %v: %s", err, out)
	}
	if out, err := exec.Command("e2fsck", "-fn", root).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v: %s", err, out)
	}
	return root
}

func debugfs(t *testing.T, root, command string) string {
	t.Helper()
	out, err := exec.Command("debugfs", "-R", command, root).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// blocksOf is how many blocks a filesystem has.
func blocksOf(t *testing.T, root string) int64 {
	t.Helper()
	said := debugfs(t, root, "show_super_stats -h")
	found := regexp.MustCompile(`Block count:\s+(\d+)`).FindStringSubmatch(said)
	if found == nil {
		t.Fatalf("no count of blocks in %s", said)
	}
	n, _ := strconv.ParseInt(found[1], 10, 64)
	return n
}
