package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"bakefarm/api"
	"bakefarm/api/client"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// converted are the formats that qemu-img makes of the raw disk, with its own names for them. Its bytes may differ from
// one day to the next.
var converted = map[string]string{"vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx"}

// diskFormats are the formats that a disk can be pulled in.
var diskFormats = []string{"raw", "qcow2", "vmdk", "vhd", "vhdx"}

// diskFlags say how a disk is pulled.
type diskFlags struct {
	format, file string
	compress     bool
}

// check refuses flags that don't fit each other; dir is the OCI layout's.
func (f diskFlags) check(dir string) error {
	switch {
	case f.format == "" && (f.file != "" || f.compress):
		return usagef("--disk FORMAT is missing: --file and --compress are for disks")
	case f.format == "" && dir == "":
		return usagef("--oci DIR is missing: say where to put the OCI layout; or pull a disk with --disk FORMAT -f FILE")
	case f.format == "":
		return nil
	case dir != "":
		return usagef("--oci and --disk are two ways to pull: choose one")
	case !slices.Contains(diskFormats, f.format):
		return usagef("--disk %q: want one of %s", f.format, strings.Join(diskFormats, ", "))
	case f.file == "":
		return usagef("-f FILE is missing: say where to put the disk")
	case f.compress && f.format != "qcow2":
		return usagef("--compress is for --disk qcow2")
	}
	if converted[f.format] != "" {
		if _, err := exec.LookPath("qemu-img"); err != nil {
			return fmt.Errorf("--disk %s wants the program qemu-img (Debian package qemu-utils): %w", f.format, err)
		}
	}
	return nil
}

// pullDisk pulls a disk, and for direct boot what starts it: FILE.kernel, FILE.initrd, FILE.cmdline.
func pullDisk(cli *cli, cmd *cobra.Command, farm *client.Client, ref, platform string, f diskFlags) error {
	ctx := cmd.Context()
	d, err := farm.Disk(ctx, ref, platform)
	if err != nil {
		return err
	}
	started := time.Now()
	var received, reused atomic.Int64
	bar := newPullBar(cmd.ErrOrStderr())
	pull := client.DiskPull{
		File: f.file, Qcow2: f.format == "qcow2", Compress: f.compress, Total: bar.total,
		Received: func(n int64) { received.Add(n); bar.add(n) },
		Reused:   func(n int64) { reused.Add(n); bar.add(n) },
	}
	if converted[f.format] != "" {
		pull.File += ".raw"
	}
	err = farm.PullDisk(ctx, d, pull)
	bar.close()
	if err != nil {
		return err
	}
	if kind := converted[f.format]; kind != "" {
		if err := convertDisk(ctx, pull.File, f.file, kind); err != nil {
			return err
		}
	}
	for _, file := range d.Files {
		if err := farm.DiskFile(ctx, d, file, f.file+"."+file.Name); err != nil {
			return err
		}
	}
	if len(d.Files) > 0 {
		if err := os.WriteFile(f.file+".cmdline", []byte(d.Config.Cmdline+"\n"), 0o644); err != nil {
			return err
		}
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "pulled the disk of %s in %s: %s received, %s of an earlier attempt kept\n",
		d.Image.Ref, took(time.Since(started)), size(received.Load()), size(reused.Load()))
	return cli.print(cmd, d.Image, func(w *tabwriter.Writer) { imageTable(w, []api.Image{d.Image.Image}) })
}

// convertDisk makes another format of a raw disk, which goes.
func convertDisk(ctx context.Context, raw, to, kind string) error {
	out, err := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", kind, raw, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("qemu-img convert to %s: %w: %s", kind, err, strings.TrimSpace(string(out)))
	}
	return os.Remove(raw)
}

// pullBar shows on a terminal how far a download is.
type pullBar struct {
	bars *mpb.Progress // nil: no terminal
	bar  *mpb.Bar
}

func newPullBar(w io.Writer) *pullBar {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return &pullBar{}
	}
	bars := mpb.New(mpb.WithOutput(f), mpb.WithWidth(40))
	return &pullBar{bars, bars.AddBar(0, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name("disk ")), mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f")))}
}

func (b *pullBar) total(n int64) {
	if b.bar != nil {
		b.bar.SetTotal(max(n, 1), false)
	}
}

func (b *pullBar) add(n int64) {
	if b.bar != nil {
		b.bar.IncrInt64(n)
	}
}

func (b *pullBar) close() {
	if b.bar != nil {
		b.bar.Abort(true)
		b.bars.Wait()
	}
}
