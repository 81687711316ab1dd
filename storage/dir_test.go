package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func mustOpen(t *testing.T, b Backend, opts ...Option) *Store {
	t.Helper()
	s, err := Open(t.Context(), b, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func mustPut(t *testing.T, s *Store, key, value string, opts ...PutOption) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(value), opts...); err != nil {
		t.Fatal(err)
	}
}

func wantGet(t *testing.T, s *Store, key, want string) {
	t.Helper()
	got, err := s.Get(t.Context(), key)
	if string(got) != want || err != nil {
		t.Fatalf("Get(%q) = %q, %v; want %q", key, got, err, want)
	}
}

func wantGone(t *testing.T, s *Store, key string) {
	t.Helper()
	if got, err := s.Get(t.Context(), key); !errors.Is(err, ErrNotFound) {
		t.Fatalf("Get(%q) = %q, %v; want ErrNotFound", key, got, err)
	}
}

func TestDirFiles(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "new", "deep")
	b := Dir(folder)
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("Dir creates the folder before it is opened")
	}
	s := mustOpen(t, b)
	start := time.Now()
	mustPut(t, s, "/email/domains/example.org.json", "{}")
	file := filepath.Join(folder, "email+", "domains+", "example.org.json")
	if got, err := os.ReadFile(file); string(got) != "{}" || err != nil {
		t.Fatalf("%s: %q, %v", file, got, err)
	}
	info, err := s.Stat(t.Context(), "email/domains/example.org.json")
	if err != nil || info.Size != 2 || info.Modified.Before(start.Add(-time.Minute)) || info.Modified.After(time.Now().Add(time.Minute)) {
		t.Errorf("Stat = %+v, %v", info, err)
	}
	if runtime.GOOS != "windows" {
		err := filepath.WalkDir(filepath.Dir(folder), func(name string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			fi, err := e.Info()
			if err == nil && fi.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v: others can read it", name, fi.Mode())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// Empty folders go with the last value.
	if err := s.Delete(t.Context(), "email/domains/example.org.json"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(folder, "email+")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the empty folder is still there: %v", err)
	}
	mustPut(t, s, "email/domains/example.org.json", "again")

	// Folders that somebody removed by hand are made again.
	if err := os.RemoveAll(filepath.Join(folder, "email+")); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "email/domains/example.org.json", "and again")
	wantGet(t, s, "email/domains/example.org.json", "and again")
}

// TestDirPrune: no empty folder stays where many write at once, nor after Open.
func TestDirPrune(t *testing.T) {
	folder := t.TempDir()
	s := mustOpen(t, Dir(folder))
	folders := func() (list []string) {
		err := filepath.WalkDir(folder, func(name string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() && strings.HasPrefix(e.Name(), "x") {
				list = append(list, name)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		return list
	}
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 20 {
				key := fmt.Sprintf("a/x%d-%d/k", w, i)
				if err := s.Put(t.Context(), key, nil); err != nil {
					t.Error(err)
				}
				if err := s.Delete(t.Context(), key); err != nil {
					t.Error(err)
				}
			}
		})
	}
	testenv.Await(t, "the writers", writers.Wait)
	mustPut(t, s, "a/x/k", "")
	if err := s.Delete(t.Context(), "a/x/k"); err != nil { // alone
		t.Fatal(err)
	}
	if list := folders(); len(list) > 0 {
		t.Errorf("%d empty folders are left", len(list))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(folder, "x+", "y+"), 0o700); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, Dir(folder))
	if list := folders(); len(list) > 0 {
		t.Errorf("after Open there are %q", list)
	}
}

func TestDirForeignFiles(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"README.md", "Upper", "lost+found/x", "plain/file", tempPrefix + "ABC", "a+/" + tempPrefix + "DEF"} {
		file := filepath.Join(folder, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := mustOpen(t, Dir(folder))
	for k, err := range s.List(t.Context(), "") {
		t.Errorf("List yields %q, %v", k, err)
	}
	for name, there := range map[string]bool{
		"README.md": true, "lost+found/x": true, "plain/file": true, tempPrefix + "ABC": false, "a+/" + tempPrefix + "DEF": false,
	} {
		if _, err := os.Stat(filepath.Join(folder, filepath.FromSlash(name))); (err == nil) != there {
			t.Errorf("after Open, %s: %v", name, err)
		}
	}
}

func TestDirSymlinks(t *testing.T) {
	outside, folder := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"file": secret, "folder+": outside} {
		if err := os.Symlink(target, filepath.Join(folder, link)); err != nil {
			t.Skipf("no symbolic links here: %v", err)
		}
	}
	s := mustOpen(t, Dir(folder))
	for _, key := range []string{"file", "folder/secret"} {
		if got, err := s.Get(t.Context(), key); err == nil {
			t.Errorf("Get(%q) reads %q from outside the folder", key, got)
		}
	}
	if err := s.Put(t.Context(), "folder/new", []byte("x")); err == nil {
		t.Error("Put writes outside the folder")
	}
	if entries, err := os.ReadDir(outside); len(entries) != 1 || err != nil {
		t.Errorf("outside the folder: %v, %v", entries, err)
	}
	mustPut(t, s, "file", "mine") // replaces the link, not its target
	if got, err := os.ReadFile(secret); string(got) != "secret" || err != nil {
		t.Errorf("the link's target is now %q, %v", got, err)
	}
}

func TestDirInUse(t *testing.T) {
	folder := t.TempDir()
	b := Dir(folder)
	s := mustOpen(t, b)
	for what, other := range map[string]Backend{"the same Dir": b, "another Dir": Dir(folder)} {
		_, err := Open(t.Context(), other)
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), folder) {
			t.Errorf("opening %s again: %v; want ErrInUse and the folder's name", what, err)
		}
	}
	mustPut(t, s, "a", "still works")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), "a", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Put on a closed Dir: %v", err)
	}
	wantGet(t, mustOpen(t, b), "a", "still works")
}

// TestDirInUseByProcess: the other one is a process, and dies.
func TestDirInUseByProcess(t *testing.T) {
	folder := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=dir 1 %d", crashEnv, time.Now().UnixNano()), crashFolder+"="+folder)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if _, err := io.ReadFull(out, make([]byte, 9)); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), Dir(folder))
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), folder) {
		t.Errorf("opening a folder that a process has open: %v; want ErrInUse and the folder's name", err)
	}
	if pid := fmt.Sprintf("process %d", cmd.Process.Pid); err != nil && runtime.GOOS == "linux" && !strings.Contains(err.Error(), pid) {
		t.Errorf("%v does not name %s", err, pid)
	}
	cmd.Process.Kill()
	cmd.Wait()
	mustOpen(t, Dir(folder))
}

func TestDirBadFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"", file, filepath.Join(file, "below")} {
		if s, err := Open(t.Context(), Dir(folder)); err == nil {
			s.Close()
			t.Errorf("Open of %q succeeds", folder)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	folder := t.TempDir()
	if _, err := Open(ctx, Dir(folder)); !errors.Is(err, context.Canceled) {
		t.Errorf("Open with a cancelled context: %v", err)
	}
	mustOpen(t, Dir(folder)) // and it is not locked after that
}
