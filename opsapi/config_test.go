package opsapi

import (
	"encoding/json"
	"testing"

	"github.com/dcrouter/dcrouter/internal/conf/conftest"
)

func TestReferenceConfigs(t *testing.T) {
	conftest.Reference[Config](t, "opsServerConfig", "ops-dashboard", "enterprise")
}

func TestPasswordIsNotShown(t *testing.T) {
	shown, err := json.Marshal(Config{Port: new(0), Admin: Admin{"root", "hunter2"}})
	if want := `{"port":0,"admin":{"username":"root","password":"***"}}`; err != nil || string(shown) != want {
		t.Errorf("got %s, %v", shown, err)
	}
}

func TestValidate(t *testing.T) {
	admin := `"admin":{"username":"a","password":"p"}`
	tests := []conftest.Case{
		{"nothing", `{}`, "admin.username: missing\nadmin.password: missing"},
		{"least", `{` + admin + `}`, ``},
		{"any port", `{"port":0,"listenHost":"::",` + admin + `}`, ``},
		{"bad port", `{"port":65536,` + admin + `}`, `port: 65536 is not a port (1-65535, or 0 for any free one)`},
		{"bad host", `{"listenHost":"0.0.0.0:80",` + admin + `}`, `listenHost: "0.0.0.0:80" is not an IP address`},
		{"empty password", `{"admin":{"username":"a","password":""}}`, `admin.password: missing`},
		{"redacted password", `{"admin":{"username":"a","password":"***"}}`, `admin.password: *** is what is shown in place of a secret: give its value`},
		{"line break", `{"admin":{"username":"a\nb","password":"p"}}`, `admin.username: "a\nb" has a line break or another control character in it`},
	}
	conftest.Validate[Config](t, tests)
}
