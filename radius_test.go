package dcrouter_test

import (
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/radius"
	"github.com/dcrouter/dcrouter/storage"
)

// Check finds what is wrong with the files for RadSec.
func TestCheckRadSec(t *testing.T) {
	cfg, err := dcrouter.LoadConfig(strings.NewReader(`{"radiusConfig": {"secret": "a long shared secret",
		"radSec": {"certificate": {"certPath": "/nowhere", "keyPath": "/nowhere"}, "clientCaPath": "/nowhere"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := dcrouter.New(dcrouter.WithConfig(cfg))
	if err != nil {
		t.Fatal(err)
	}
	checkErrors(t, r.Check(), []string{"radiusConfig.radSec.certificate.certPath: "})
}

// A device is let in by the Router's RADIUS server, and rules that changed while
// it ran are there after a restart.
func TestRADIUSInTheRouter(t *testing.T) {
	testenv.Goroutines(t)
	tool := testenv.Need(t, "radclient", "apt install freeradius-utils")
	cfg, err := dcrouter.LoadConfig(strings.NewReader(`{"radiusConfig": {"listenHost": "127.0.0.1", "port": 0, "accountingPort": 0,
		"clients": [{"name": "test", "ip": "127.0.0.1", "secret": "a long shared secret"}],
		"macAuth": {"enabled": true, "allowedMacs": ["aa:bb:cc:*"], "defaultVlan": 100}}}`))
	if err != nil {
		t.Fatal(err)
	}
	r := startRouter(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(storage.Dir(t.TempDir())))
	ask := func(mac string) string {
		t.Helper()
		host, port, _ := net.SplitHostPort(strings.TrimSuffix(r.Addrs()["radius"][0], "/udp"))
		cmd := exec.Command(tool, "-x", "-r", "1", "-t", "5", net.JoinHostPort(host, port), "auth", "a long shared secret")
		cmd.Stdin = strings.NewReader("User-Name=" + mac + ",User-Password=" + mac + ",Calling-Station-Id=" + mac + ",Message-Authenticator=0x00\n")
		out, _ := cmd.CombinedOutput() // a reject is a failure
		return string(out)
	}
	if got := ask("aabbcc000001"); !strings.Contains(got, "Access-Accept") || !strings.Contains(got, `Tunnel-Private-Group-Id:0 = "100"`) {
		t.Error(got)
	}
	if got := ask("112233000001"); !strings.Contains(got, "Access-Reject") {
		t.Error(got)
	}
	if err := r.RADIUS().AllowMACs(t.Context(), "11:22:33:*"); err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ask("112233000001"); !strings.Contains(got, "Access-Accept") {
		t.Error(got)
	}
	if s := r.Stats().RADIUS; s == nil || s.Accepts != 2 || s.Rejects != 1 {
		t.Errorf("%+v", s)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(r.Collector())
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}

// The host's code decides about users.
func TestWithRADIUS(t *testing.T) {
	tool := testenv.Need(t, "radclient", "apt install freeradius-utils")
	authorize := func(_ context.Context, r *radius.Request) (radius.Decision, error) {
		return radius.Decision{Accept: r.UserName == "alice" && r.CheckPassword("wonderland"), ReplyMessage: "hello " + r.UserName}, nil
	}
	r := startRouter(t, dcrouter.WithRADIUS(radius.Config{ListenHost: "127.0.0.1", Port: new(int), AccountingPort: new(int), Secret: "a long shared secret"},
		radius.WithAuthorizer(authorize)))
	for password, want := range map[string]string{"wonderland": "Access-Accept", "looking-glass": "Access-Reject"} {
		cmd := exec.Command(tool, "-x", "-r", "1", "-t", "5", strings.TrimSuffix(r.Addrs()["radius"][0], "/udp"), "auth", "a long shared secret")
		cmd.Stdin = strings.NewReader("User-Name=alice,User-Password=" + password + ",Message-Authenticator=0x00\n")
		if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), want) || !strings.Contains(string(out), "hello alice") {
			t.Errorf("%s: %s", password, out)
		}
	}
}

// The operations API shows the VLAN that a device was let in with.
func TestVLANOnTheOperatorsDesk(t *testing.T) {
	tool := testenv.Need(t, "radclient", "apt install freeradius-utils")
	cfg, err := dcrouter.LoadConfig(strings.NewReader(`{"radiusConfig": {"listenHost": "127.0.0.1", "port": 0, "accountingPort": 0,
		"clients": [{"name": "test", "ip": "127.0.0.1", "secret": "a long shared secret"}],
		"macAuth": {"enabled": true, "allowedMacs": ["aa:bb:cc:*"], "defaultVlan": 100},
		"vlanAssignment": [{"match": {"mac": "aa:bb:cc:00:00:02"}, "vlanName": "guests"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	r := startRouter(t, dcrouter.WithConfig(cfg), dcrouter.WithOps(opsSection()))
	addrs := r.Addrs()["radius"]
	send := func(addr, kind, attrs string) {
		t.Helper()
		cmd := testenv.Command(t, tool, "-r", "2", "-t", "10", strings.TrimSuffix(addr, "/udp"), kind, "a long shared secret")
		cmd.Stdin = strings.NewReader(attrs + "\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, mac := range []string{"aabbcc000001", "aabbcc000002"} {
		device := "User-Name=" + mac + ",Calling-Station-Id=" + mac
		send(addrs[0], "auth", device+",User-Password="+mac+",Message-Authenticator=0x00")
		send(addrs[1], "acct", device+",Acct-Status-Type=Start,Acct-Session-Id="+mac)
	}
	list := signIn(t, r).call("getRadiusSessions", map[string]any{}, nil)
	if !strings.Contains(list, `"vlan":100`) || !strings.Contains(list, `"vlanName":"guests"`) {
		t.Error(list)
	}
}
