package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// gatewayFolder has the program of gatewayProgram, once it has been built.
var (
	gatewayFolder string
	gatewayOnce   sync.Once
	gatewayError  error
)

// gatewayProgram builds examples/gateway once for all tests, as users do: without
// the race detector.
func gatewayProgram(t testing.TB) string {
	t.Helper()
	gatewayOnce.Do(func() {
		if gatewayFolder, gatewayError = os.MkdirTemp("", "gateway"); gatewayError != nil {
			return
		}
		cmd := testenv.Command(t, "go", "build", "-o", gatewayFolder, "github.com/dcrouter/dcrouter/examples/gateway")
		if out, err := cmd.CombinedOutput(); err != nil {
			gatewayError = fmt.Errorf("%w: %s", err, out)
		}
	})
	if gatewayError != nil {
		t.Fatal(gatewayError)
	}
	return filepath.Join(gatewayFolder, "gateway")
}
