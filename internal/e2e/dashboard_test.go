package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

const (
	deskPassword = "s3cret-password-of-the-desk"
	nasSecret    = "s3cret-of-the-switch"
)

// An operator watches and steers a Router in the browser while clients of all
// its protocols are there.
func TestDashboardOfARouter(t *testing.T) {
	testenv.Goroutines(t)
	chromium := testenv.Need(t, "chromium", "apt-get install chromium")
	testenv.Need(t, "curl", "apt-get install curl")
	testenv.Need(t, "swaks", "apt-get install swaks")
	testenv.Need(t, "dig", "apt-get install bind9-dnsutils")
	testenv.Need(t, "radclient", "apt-get install freeradius-utils")
	testenv.Loopback(t, "127.0.0.9")
	folder := browserDriver(t, "router.mjs")

	first, second := answering(t, "first"), answering(t, "second")
	nas := startSwitch(t)
	web, dns := testenv.FreePort(t), testenv.FreePort(t)
	cfg, err := dcrouter.LoadConfig(strings.NewReader(fmt.Sprintf(`{
		"storage": {"fsPath": %q}, "blocking": {"allowList": ["127.0.0.1"], "events": 3},
		"smartProxyConfig": {"listenHost": "127.0.0.1", "routes": [{"name": "web", "match": {"ports": %d, "protocol": "http"},
			"action": {"type": "forward", "targets": [{"host": "127.0.0.1", "port": %s}]}}]},
		"emailConfig": {"listenHost": "127.0.0.1", "ports": [0], "hostname": "mx.example.com", "domains": [{"domain": "example.com"}],
			"resolvers": ["127.0.0.1:%d"], "smartHost": {"host": "127.0.0.1", "port": %d},
			"routes": [{"name": "local", "match": {"recipients": "*@example.com"}, "action": {"type": "deliver"}},
				{"name": "out", "match": {"clientIp": "127.0.0.1"}, "action": {"type": "process"}}]},
		"dnsServerConfig": {"listenHost": "127.0.0.1", "port": %d, "records": [
			{"name": "www.example.com", "type": "A", "value": "192.0.2.1", "ttl": 300},
			{"name": "example.net", "type": "TXT", "value": "v=spf1 ip4:127.0.0.1 -all", "ttl": 300}]},
		"radiusConfig": {"listenHost": "127.0.0.1", "port": 0, "accountingPort": 0,
			"clients": [{"name": "switch-1", "ip": "127.0.0.1", "secret": %q, "coaPort": %d}]},
		"opsServerConfig": {"port": 0, "admin": {"username": "admin", "password": %q}}}`,
		t.TempDir(), web, first, dns, testenv.FreePort(t), dns, nasSecret, nas.port, deskPassword)))
	if err != nil {
		t.Fatal(err)
	}
	r, err := dcrouter.New(dcrouter.WithConfig(cfg))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	addrs := r.Addrs()
	accounting := strings.TrimSuffix(addrs["radius"][1], "/udp")
	nas.accounting.Store(&accounting)

	cmd := testenv.Command(t, "node", "router.mjs")
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "CHROMIUM="+chromium, "OPS=http://"+addrs["ops"][0], "PASSWORD="+deskPassword,
		fmt.Sprintf("WEB=http://127.0.0.1:%d/", web), "SMTP="+addrs["email"][0], fmt.Sprintf("DNS=127.0.0.1:%d", dns),
		"ACCOUNTING="+accounting, "SECRET="+nasSecret, "FIRST="+first, "SECOND="+second)
	showSteps(t, cmd)
	if n := nas.disconnected.Load(); n != 1 {
		t.Errorf("the switch has disconnected %d sessions, not 1", n)
	}
	if list := r.Routes(); len(list) != 1 || strconv.Itoa(list[0].Action.Targets[0].Port) != first {
		t.Errorf("the routes in the end: %+v", list)
	}
}

// answering starts a web server that says one word, and returns its port.
func answering(t *testing.T, word string) (port string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, word) }))
	t.Cleanup(s.Close)
	_, port, _ = net.SplitHostPort(s.Listener.Addr().String())
	return port
}

// networkSwitch is a RADIUS client that ends sessions when it is told to (RFC 5176),
// and then reports their end (RFC 2866).
type networkSwitch struct {
	port         int
	accounting   atomic.Pointer[string] // where it reports to
	disconnected atomic.Int32
}

func startSwitch(t *testing.T) *networkSwitch {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &networkSwitch{port: pc.LocalAddr().(*net.UDPAddr).Port}
	s := &layeh.PacketServer{SecretSource: layeh.StaticSecretSource([]byte(nasSecret)), Handler: layeh.HandlerFunc(func(w layeh.ResponseWriter, r *layeh.Request) {
		if r.Code != layeh.CodeDisconnectRequest {
			t.Errorf("the switch is asked with %v", r.Code)
			return
		}
		n.disconnected.Add(1)
		if err := errors.Join(w.Write(r.Response(layeh.CodeDisconnectACK)), n.reportStop(r.Packet)); err != nil {
			t.Errorf("the switch: %v", err)
		}
	})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(pc) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(s.Shutdown(ctx), pc.Close()); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("stopping the switch: %v", err)
		}
		if err := testenv.Receive(t, done); !errors.Is(err, layeh.ErrServerShutdown) {
			t.Errorf("the switch: %v", err)
		}
	})
	return n
}

// reportStop says that the session of a Disconnect-Request has ended.
func (n *networkSwitch) reportStop(request *layeh.Packet) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stop := layeh.New(layeh.CodeAccountingRequest, []byte(nasSecret))
	err := errors.Join(
		rfc2866.AcctStatusType_Add(stop, rfc2866.AcctStatusType_Value_Stop),
		rfc2866.AcctSessionID_Add(stop, rfc2866.AcctSessionID_Get(request)),
		rfc2865.NASIdentifier_Add(stop, rfc2865.NASIdentifier_Get(request)),
	)
	if err != nil {
		return err
	}
	_, err = layeh.Exchange(ctx, stop, *n.accounting.Load())
	return err
}

// browserDriver installs what drives Chromium, as the tests of the dashboard pin
// it, beside a script of ours.
func browserDriver(t *testing.T, script string) (folder string) {
	t.Helper()
	testenv.Need(t, "node", "apt-get install nodejs")
	npm := testenv.Need(t, "npm", "apt-get install npm")
	folder = testenv.Folder(t)
	pinned := filepath.Join("..", "..", "opsapi", "testdata", "dashboard")
	for _, path := range []string{filepath.Join(pinned, "package.json"), filepath.Join(pinned, "package-lock.json"), filepath.Join("testdata", "dashboard", script)} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, filepath.Base(path)), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := testenv.Command(t, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	cmd.Dir = folder
	if out, err := cmd.CombinedOutput(); err != nil {
		testenv.Lacks(t, "npm cannot install the browser's driver: %v\n%s", err, out)
	}
	return folder
}

// showSteps runs a driver, and makes a subtest of each step that it tells of.
func showSteps(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("the driver: %v\n%s", err, complaints.String())
	}
	for steps := json.NewDecoder(bytes.NewReader(out)); ; {
		var step struct {
			Name     string
			Error    string
			Millis   int
			Findings []string
		}
		if err := steps.Decode(&step); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("%v in %q", err, out)
		}
		t.Run(step.Name, func(t *testing.T) {
			t.Logf("%d ms", step.Millis)
			if step.Error != "" {
				t.Error(step.Error)
			}
			for _, f := range step.Findings {
				t.Error(f)
			}
		})
	}
}
