package sandbox_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"bakefarm/worker/sandbox"
)

// Every test of this package (some of them with -short) once more, as an ordinary user with subordinate IDs.
func TestAsUser(t *testing.T) {
	u := ordinaryUser(t, "bakefarm-test", true)
	which := "."
	if testing.Short() { // what differs most
		which = "^(TestWhatACommandGets|TestChanges)$"
	}
	out, err := asUser(t, u, "-test.run="+which, "-test.skip=^(TestAsUser|TestWithoutSubordinateIDs)$", "-test.v="+strconv.FormatBool(testing.Verbose()))
	if err != nil {
		t.Errorf("as %s: %v\n%s", u.Username, err, out)
	}
	t.Logf("%s", out)
}

// A user who has none is told what is missing.
func TestWithoutSubordinateIDs(t *testing.T) {
	if os.Getenv("SANDBOX_TEST_REFUSED") != "" {
		_, err := sandbox.Open(t.Context(), sandbox.Config{Dir: t.TempDir()})
		if !errors.Is(err, sandbox.ErrUnavailable) || !strings.Contains(err.Error(), "usermod --add-subuids") {
			t.Errorf("error %v", err)
		}
		return
	}
	u := ordinaryUser(t, "bakefarm-none", false)
	t.Setenv("SANDBOX_TEST_REFUSED", "1")
	if out, err := asUser(t, u, "-test.run=^TestWithoutSubordinateIDs$"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// ordinaryUser makes a user for the time of the test.
func ordinaryUser(t *testing.T, name string, subordinate bool) *user.User {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the other tests run as an ordinary user already; only root can make another")
	}
	count := "0"
	if subordinate {
		count = "65536"
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	if _, err := user.Lookup(name); err == nil { // of a test that was killed
		run("userdel", name)
	}
	run("useradd", "--no-create-home", "--key", "SUB_UID_COUNT="+count, "--key", "SUB_GID_COUNT="+count, name)
	t.Cleanup(func() { run("userdel", name) })
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// asUser runs this test's program as a user.
func asUser(t *testing.T, u *user.User, args ...string) (string, error) {
	t.Helper()
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	// Neither go test's directory nor t.TempDir are open to others.
	dir, err := os.MkdirTemp("", "sandbox-user")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	program := filepath.Join(dir, "sandbox.test")
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(program, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(out.Close(), os.Chown(dir, uid, gid)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "TMPDIR=" + dir, "HOME=" + dir, "SANDBOX_TEST_REFUSED=" + os.Getenv("SANDBOX_TEST_REFUSED")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	text, err := cmd.CombinedOutput()
	return string(text), err
}
