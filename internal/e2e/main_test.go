package e2e

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// childConfig names the file from which this binary, instead of running tests,
// runs a Router until it is told to end.
const childConfig = "DCROUTER_E2E_CONFIG"

func TestMain(m *testing.M) {
	path := os.Getenv(childConfig)
	if path == "" {
		code := m.Run()
		os.RemoveAll(gatewayFolder)
		os.Exit(code)
	}
	if err := runChild(path); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func runChild(path string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	cfg, err := dcrouter.LoadConfig(f)
	if err != nil {
		return err
	}
	r, err := dcrouter.New(dcrouter.WithConfig(cfg))
	if err != nil {
		return err
	}
	if err := r.Start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return r.Stop(ctx)
}

// startChild runs a Router in another process, with the configuration in a file.
func startChild(t *testing.T, path, ready string) *testenv.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return testenv.Start(t, testenv.Opts{Env: []string{childConfig + "=" + path}, Ready: ready, StopTimeout: 20 * time.Second}, self)
}
