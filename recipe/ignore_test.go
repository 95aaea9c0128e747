package recipe

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestIgnore(t *testing.T) {
	for _, test := range []struct {
		patterns string
		ignored  string // separated by spaces; a trailing / is a directory
		kept     string
	}{
		{"", "", "a a/ a/b"},
		{"# a\n\n  \n", "", "a #"},
		{"\\#a", "#a x/#a", "a"},
		{"a", "a a/ a/b x/a x/a/b", "ab xa b/xa"},
		{"/a", "a a/b", "x/a"},
		{"a/", "a/ a/b x/a/ x/a/b", "a x/a"},
		{"a/b", "a/b a/b/c", "x/a/b a"},
		{"*.o", "x.o a/x.o .o", "x.oo o"},
		{"a*c", "ac abc abbc", "a/c ab/c"},
		{"a?c", "abc", "ac a/c abbc"},
		{"[a-c]x", "ax cx", "dx x"},
		{"[!a-c]x", "dx", "ax x"},
		{"[^a]x", "dx", "ax"},
		{"**/a", "a x/a x/y/a x/y/a/z", "xa x/ya"},
		{"a/**", "a/b a/b/c a/b/", "a a/ x/a/b"},
		{"a/**/b", "a/b a/x/b a/x/y/b", "a ab a/xb x/a/b"},
		{"**", "a a/b", ""},
		{"/*", "a a/b", ""},
		{"*\n!dist\n", "a dist2 a/dist", "dist dist/"},
		{"*\n!dist\n!dist/**", "a x/y", "dist/ dist/a dist/a/b"},
		{"*.log\n!keep.log", "a.log x/a.log", "keep.log x/keep.log"},
		{"a\n!a/b", "a/ a/b", ""}, // nothing comes back out of an ignored directory
		{"a/*\n!a/b", "a/c a/c/d", "a/ a/b a/b/c"},
		{"!a\na", "a", ""},
		{"a \nb\\ \n", "a", "b b\\"},
		{"a\r\nb\r\n", "a b", "c"},
		{"\ufeffa", "a", "b"},
		{"\\!a", "!a", "a"},
		{"node_modules/\n.git/", "node_modules/ x/node_modules/ .git/config", "node_modules .gitignore"},
	} {
		m, err := ParseIgnore(IgnoreFile, []byte(test.patterns))
		if err != nil {
			t.Errorf("%q: %v", test.patterns, err)
			continue
		}
		for want, names := range map[bool]string{true: test.ignored, false: test.kept} {
			for name := range strings.FieldsSeq(names) {
				if got := m.Ignores(strings.TrimSuffix(name, "/"), strings.HasSuffix(name, "/")); got != want {
					t.Errorf("%q: %s ignored: %v", test.patterns, name, got)
				}
			}
		}
	}
	if m := (*IgnoreMatcher)(nil); m.Ignores("a", false) {
		t.Error("the nil matcher ignores")
	}
	m, _ := ParseIgnore(IgnoreFile, []byte("*"))
	if m.Ignores(".", true) {
		t.Error("the context directory itself is ignored")
	}
	m, _ = ParseIgnore(IgnoreFile, []byte("b\\ "))
	if !m.Ignores("b ", false) {
		t.Error("an escaped space at the end is lost")
	}
}

func TestIgnoreErrors(t *testing.T) {
	_, err := ParseIgnore("ctx/.bakeignore", []byte("ok\n[a\n/\na//b\n../x\n[[:alpha:]]\nx\\\n!\n"))
	want := strings.Join([]string{
		`ctx/.bakeignore:2:1: pattern "[a" is malformed; a [ needs its ], and \ a character after it`,
		`ctx/.bakeignore:3:1: pattern "/" names nothing`,
		`ctx/.bakeignore:4:1: pattern "a//b" has an empty, . or .. component, which no path in the context has`,
		`ctx/.bakeignore:5:1: pattern "../x" has an empty, . or .. component, which no path in the context has`,
		`ctx/.bakeignore:6:1: pattern "[[:alpha:]]" has a class such as [[:alpha:]]; write it out: [a-zA-Z]`,
		`ctx/.bakeignore:7:1: pattern "x\\" is malformed; a [ needs its ], and \ a character after it`,
		`ctx/.bakeignore:8:1: pattern "!" names nothing`,
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	var all Errors
	if !errors.As(err, &all) {
		t.Errorf("%T", err)
	}
	if _, err := ParseIgnore("f", []byte(strings.Repeat("a\n", maxIgnorePatterns+1))); err == nil || !strings.Contains(err.Error(), "at most 10000") {
		t.Errorf("%v", err)
	}
	if _, err := ParseIgnore("f", make([]byte, MaxIgnore+1)); err == nil {
		t.Error("a file without bounds is read")
	}
}

// TestIgnoreAgreesWithGit asks git itself about patterns and paths made of few letters, so that they meet.
func TestIgnoreAgreesWithGit(t *testing.T) {
	dir := t.TempDir()
	git := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) { // 1: none is ignored
			t.Fatalf("git %s: %v", args, err)
		}
		return string(out)
	}
	git("", "init", "-q")
	var files []string
	for _, path := range []string{"a", "b", "ab/a", "ab/b/a", "c/a/b/c", "c/ab", "c/b", "d/d/d/a", "d/a.b", "abc/x/y"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{"a", "b", "ab", "c", "d", "*", "a*", "?", "*b", "[ab]", "[!a]", "**", "x"}
	ignored := 0
	for range 150 {
		var text strings.Builder
		for range 1 + r.IntN(4) {
			if r.IntN(4) == 0 {
				text.WriteString("!")
			}
			if r.IntN(4) == 0 {
				text.WriteString("/")
			}
			for i := range 1 + r.IntN(3) {
				if i > 0 {
					text.WriteString("/")
				}
				text.WriteString(words[r.IntN(len(words))])
			}
			if r.IntN(4) == 0 {
				text.WriteString("/")
			}
			text.WriteString("\n")
		}
		if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		m, err := ParseIgnore(IgnoreFile, []byte(text.String()))
		if err != nil {
			t.Fatal(err)
		}
		theirs := make(map[string]bool)
		for path := range strings.FieldsSeq(git(strings.Join(files, "\n"), "check-ignore", "--no-index", "--stdin")) {
			theirs[path] = true
		}
		for _, path := range files {
			if ours := m.Ignores(path, false); ours != theirs[path] {
				t.Errorf("%s: we say %v, git says %v, of\n%s", path, ours, theirs[path], text.String())
			}
		}
		ignored += len(theirs)
	}
	if ignored < 100 || ignored > 150*len(files)*9/10 {
		t.Errorf("%d paths ignored in all: the patterns test nothing", ignored)
	}
}

func TestIgnoreIsFast(t *testing.T) {
	pattern := strings.Repeat("**/a*a*a*a*a*a*b/", 50) + "x"
	m, err := ParseIgnore(IgnoreFile, []byte(pattern))
	if err != nil {
		t.Fatal(err)
	}
	if m.Ignores(strings.Repeat(strings.Repeat("a", 200)+"/", 20)+"y", false) {
		t.Error("matched")
	}
}

func FuzzIgnore(f *testing.F) {
	f.Add("a/**\n!b", "a/b/c", false)
	f.Add("[a-\n\\", "x", true)
	f.Fuzz(func(t *testing.T, text, path string, dir bool) {
		m, err := ParseIgnore("f", []byte(text))
		if err != nil || path == "" {
			return
		}
		// What is in an ignored directory is ignored.
		if m.Ignores(path, true) && path != "." && !m.Ignores(path+"/x", dir) {
			t.Errorf("%q is ignored, what is in it is not: %q", path, text)
		}
		_ = fmt.Sprint(m.Ignores(path, dir))
	})
}
