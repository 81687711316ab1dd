package storagetest_test

import (
	"testing"

	"github.com/dcrouter/dcrouter/storage"
	"github.com/dcrouter/dcrouter/storage/storagetest"
)

// A host checks its backend in a test of its own, a function such as this one.
func ExampleRun() {
	testBackend := func(t *testing.T) { // TestBackend
		storagetest.Run(t, func(t *testing.T) storage.Backend {
			return storage.Dir(t.TempDir()) // the host's; empty, and only this test's
		})
	}
	_ = testBackend
}
