package dcrouter_test

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/storage"
)

// beforeUpgrade returns testdata/upgrade: a configuration, and a storage in which a
// version of the program has left it as changed through the API that writes
// configurations otherwise, with fields in another order and values that are left out
// now.
func beforeUpgrade(t *testing.T) (dcrouter.Config, storage.Backend) {
	t.Helper()
	file, err := os.Open("testdata/upgrade/config.json")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cfg, err := dcrouter.LoadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	backend, files := storage.Memory(), os.DirFS("testdata/upgrade/storage")
	err = fs.WalkDir(files, ".", func(key string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		value, err := fs.ReadFile(files, key)
		if err != nil {
			return err
		}
		return backend.Put(t.Context(), key, value)
	})
	if err != nil {
		t.Fatal(err)
	}
	return cfg, backend
}

// An upgrade that writes configurations otherwise keeps what was changed through the
// API, and makes no version of that.
func TestUpgradeKeepsChanges(t *testing.T) {
	cfg, backend := beforeUpgrade(t)
	for range 2 {
		r := start(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(backend))
		o := signIn(t, r)
		wantChanged(o, 3)
		if body := o.call("getConfigurationHistory", nil, nil); strings.Contains(body, `"version":3`) || !strings.Contains(body, `"author":"admin"`) {
			t.Errorf("history %s", body)
		}
		stop(t, r)
	}
	cfg.Proxy.MaxConnections = 100
	r := start(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(backend))
	wantChanged(signIn(t, r), 0)
}

// So it is of what was changed in code, where there never was an API.
func TestUpgradeKeepsChangesInCode(t *testing.T) {
	cfg, backend := beforeUpgrade(t)
	cfg.Ops = nil
	if err := backend.Delete(t.Context(), "ops/configuration/head"); err != nil {
		t.Fatal(err)
	}
	r := start(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(backend))
	if routes, policy := r.Email().Routes(), r.RADIUS().Policy(); routes[0].Name != "changed" || policy.VLANAssignment[0].VLANName != "changed" {
		t.Errorf("the mail's routes are %v, the policy %v", routes, policy)
	}
}
