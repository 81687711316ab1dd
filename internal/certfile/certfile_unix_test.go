//go:build unix

package certfile

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestPipesAreNotWaitedFor(t *testing.T) {
	cert, _, _ := testenv.SelfSigned(t)
	pipe := filepath.Join(testenv.Folder(t), "key.pem")
	do(t, syscall.Mkfifo(pipe, 0o600))
	if _, err := Open(cert, pipe, nil); err == nil || !strings.Contains(err.Error(), "keyPath: cannot read the key: "+pipe+" is not a file") {
		t.Errorf("%v, want that the pipe is no file", err)
	}
}
