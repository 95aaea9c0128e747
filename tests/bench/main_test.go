package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMain has everything that is measured make its files where no round before has made or removed any: close to inodes
// that were removed within seconds ext4 takes milliseconds to make a file, whoever made the ones before.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "bakefarm-bench-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		apart(dir)
		if err := os.Setenv("TMPDIR", dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// roomy is a test's directory for temporary ones, each of which lies apart from the others.
func roomy(t testing.TB) string {
	dir := t.TempDir()
	apart(filepath.Dir(dir))
	return dir
}

// apart has the directories that are made in dir lie in regions of their own, if the filesystem knows how to.
func apart(dir string) {
	_ = exec.Command("chattr", "+T", dir).Run() // others need not
}
