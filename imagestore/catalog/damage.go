package catalog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// errUnusable: the file is no catalog of this schema, or is damaged; deleting it helps.
var errUnusable = errors.New("not a catalog of this release")

// unusable tells a file that is broken from one that can't be reached.
func unusable(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return errors.Is(err, errUnusable) || strings.Contains(text, "not a database") || strings.Contains(text, "malformed") || strings.Contains(text, "no such table")
}

// removeFile deletes a catalog's file and what SQLite keeps beside it.
func removeFile(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("catalog: remove what can't be used: %w", err)
		}
	}
	return nil
}

// noticed returns the error of a query. If it says that the file is damaged, which somebody must have done to it while it was in
// use, the file is removed and Run ends: whoever starts it again has a catalog that is made anew.
func (c *Catalog) noticed(err error) error {
	if c.path != "" && unusable(err) {
		c.ruin.Do(func() {
			c.ruined <- fmt.Errorf("catalog %s: the file is damaged and was removed; started again, it is made anew: %w", c.path, errors.Join(err, removeFile(c.path)))
		})
	}
	return err
}

// watch returns what noticed has noticed, or nil when ctx ends.
func (c *Catalog) watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-c.ruined:
		return err
	}
}
