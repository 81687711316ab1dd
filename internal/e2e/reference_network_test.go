package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/opsapi"
)

// radclient asks the gateway as a switch does, from a machine of the place, and
// returns what it is answered. Without an answer that is "".
func (p *place) radclient(t *testing.T, host, port int, kind, secret string, attributes ...string) string {
	t.Helper()
	attributes = append(attributes, "Packet-Src-IP-Address = "+p.at(host))
	out, _ := try(t, "radclient", "apt-get install freeradius-utils", strings.Join(attributes, "\n")+"\n", "-x", "-t", "1", "-r", "2", p.port(port), kind, secret)
	_, received, _ := strings.Cut(out, "\nReceived ")
	return received
}

// device asks about a device that shows no more than its MAC address.
func (p *place) device(t *testing.T, host int, secret, mac string) string {
	t.Helper()
	return p.radclient(t, host, 1812, "auth", secret, fmt.Sprintf("User-Name = %q", mac), fmt.Sprintf("Calling-Station-Id = %q", mac), fmt.Sprintf("User-Password = %q", mac), "Message-Authenticator = 0x00")
}

// vlan is the answer that assigns one.
func vlan(answer string) string {
	for _, want := range []string{"Access-Accept", "Tunnel-Type:0 = VLAN", "Tunnel-Medium-Type:0 = IEEE-802"} {
		if !strings.Contains(answer, want) {
			return answer
		}
	}
	_, id, _ := strings.Cut(answer, `Tunnel-Private-Group-Id:0 = "`)
	id, _, _ = strings.Cut(id, `"`)
	return id
}

func referenceRADIUS(t *testing.T) {
	p := newPlace(t)
	const general, own, atSwitch = "your-radius-secret", "client-secret", 1
	g := p.run(t, p.load(t, "radius-basic", nil))
	g.listens(t, p, "radius", "1812/udp", "1813/udp")
	// Nobody is let in. The switch is answered, and with its own secret; all others
	// are not heard, as there is a list of clients.
	for _, test := range []struct {
		host     int
		secret   string
		answered bool
	}{{atSwitch, own, true}, {atSwitch, general, false}, {atStranger, general, false}, {atStranger, own, false}} {
		got := p.device(t, test.host, test.secret, "aabbccddeeff")
		if strings.HasPrefix(got, "Access-Reject") != test.answered || got != "" != test.answered {
			t.Errorf("%d with %s: %q", test.host, test.secret, got)
		}
	}
	got := p.radclient(t, atSwitch, 1813, "acct", own, `User-Name = "aabbccddeeff"`, "Acct-Status-Type = Start", `Acct-Session-Id = "1"`, "NAS-IP-Address = "+p.at(atSwitch))
	if !strings.HasPrefix(got, "Accounting-Response") {
		t.Errorf("accounting: %q", got)
	}
}

func referenceMAB(t *testing.T) {
	p := newPlace(t)
	p.run(t, p.load(t, "radius-mab", nil))
	for mac, want := range map[string]string{
		"aa:bb:cc:dd:ee:ff": "100", "AA-BB-CC-00-00-01": "100", "aabb.cc12.3456": "100", // by address, and by manufacturer
		"00:11:22:33:44:55": "999", // a guest
	} {
		if got := vlan(p.device(t, atStranger, "radius-secret", mac)); got != want {
			t.Errorf("%s is in %s, want %s", mac, got, want)
		}
	}
	got := p.radclient(t, atStranger, 1812, "auth", "radius-secret", `User-Name = "alice"`, `User-Password = "wonderland"`, "Message-Authenticator = 0x00")
	if !strings.HasPrefix(got, "Access-Reject") {
		t.Errorf("a user, of whom there are none: %q", got)
	}
}

func referenceVLAN(t *testing.T) {
	p := newPlace(t)
	g := p.run(t, p.load(t, "radius-vlan", nil))
	g.listens(t, p, "radius", "1812/udp", "1813/udp") // by default
	for mac, want := range map[string]string{"aa:bb:cc:00:00:01": "100", "dd-ee-ff-00-00-01": "200", "00:11:22:33:44:55": "999"} {
		if got := vlan(p.device(t, atStranger, "radius-secret", mac)); got != want {
			t.Errorf("%s is in %s, want %s", mac, got, want)
		}
	}
}

// desk is an operator at the operations API.
type desk struct {
	base, token string
}

// call makes a request as the reference's client does, and returns what it says.
func (d *desk) call(t *testing.T, method string, request, response any) error {
	t.Helper()
	body, err := json.Marshal(map[string]any{"method": method, "request": request})
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodPost, d.base+"/typedrequest", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if d.token != "" {
		r.Header.Set("Authorization", "Bearer "+d.token)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Response json.RawMessage
		Error    *struct{ Text string }
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s, %v: %s", method, resp.Status, err, text)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("%s: %w in %s", method, err, text)
	}
	if answer.Error != nil {
		return fmt.Errorf("%s: %s", method, answer.Error.Text)
	}
	if response == nil {
		return nil
	}
	return json.Unmarshal(answer.Response, response)
}

// signIn signs in as the administrator.
func signIn(t *testing.T, base, password string) *desk {
	t.Helper()
	d := &desk{base: base}
	var in struct{ Identity struct{ JWT string } }
	if err := d.call(t, "adminLoginWithUsernameAndPassword", map[string]string{"username": "admin", "password": password}, &in); err != nil {
		t.Fatal(err)
	}
	d.token = in.Identity.JWT
	return d
}

func referenceOps(t *testing.T) {
	p := newPlace(t)
	g := p.run(t, p.load(t, "ops-dashboard", nil))
	g.listens(t, p, "ops", "3000")
	g.listens(t, p, "email", "25", "587", "465")
	for port, args := range map[int]string{587: "--tls", 465: "--tls-on-connect"} { // with a certificate that is made here
		wantSaid(t, p.swaks(t, atStranger, port, args, "--to", "a@b.com", "--quit-after", "EHLO"), "=== TLS started")
	}
	base := "http://" + p.port(3000)
	page := tool(t, "curl", "apt-get install curl", "-sS", "-f", base+"/")
	if !strings.Contains(page, "<title>dcrouter") {
		t.Errorf("the dashboard: %.300s", page)
	}
	nobody := &desk{base: base}
	if err := nobody.call(t, "getServerStatistics", nil, nil); err == nil {
		t.Error("statistics for everybody")
	}
	if err := nobody.call(t, "adminLoginWithUsernameAndPassword", map[string]string{"username": "admin", "password": "admin"}, nil); err == nil {
		t.Error("signed in with a wrong password")
	}
	d := signIn(t, base, "your-secure-password")
	p.swaks(t, atStranger, 25, "--to", "a@b.com", "--quit-after", "RCPT") // there is no route
	var stats struct {
		Stats struct {
			Email struct {
				Connections struct{ Total int }
				Refused     map[string]int
			}
			Proxy struct{ Routes []any }
		}
	}
	if err := d.call(t, "getServerStatistics", nil, &stats); err != nil || stats.Stats.Email.Connections.Total != 3 || stats.Stats.Email.Refused["relay"] != 1 || len(stats.Stats.Proxy.Routes) != 0 {
		t.Errorf("%+v, %v", stats, err)
	}
	var health struct {
		Status     string
		Components []struct{ Name string }
	}
	if err := d.call(t, "getHealthStatus", nil, &health); err != nil || health.Status != "healthy" || len(health.Components) < 3 {
		t.Errorf("%+v, %v", health, err)
	}
	var shown struct{ Configuration dcrouter.Config }
	if err := d.call(t, "getConfiguration", nil, &shown); err != nil || shown.Configuration.Email.Hostname != "mail.example.com" || shown.Configuration.Ops.Admin.Password.Reveal() != "***" {
		t.Errorf("%+v, %v", shown, err)
	}
}

// What has been changed while the gateway runs is there after a restart, and
// nothing is elsewhere than in the folder.
func referenceStorage(t *testing.T) {
	p := newPlace(t)
	p.serveAt(t, "web", 10, 8080)
	cfg := p.load(t, "storage-fs", func(c *dcrouter.Config) {
		c.Ops = &opsapi.Config{ListenHost: p.at(atGateway), Admin: opsapi.Admin{Username: "admin", Password: "your-secure-password"}}
	})
	folder := testenv.Folder(t)
	g := runGateway(t, folder, cfg)
	if strings.Contains(g.Output(), "no storage is configured") {
		t.Errorf("%s", g.Output())
	}
	base := "http://" + p.port(3000)
	route := map[string]any{"name": "web", "match": map[string]any{"ports": 80, "protocol": "http"}, "action": map[string]any{"type": "forward", "targets": map[string]any{"host": p.at(10), "port": 8080}}}
	if err := signIn(t, base, "your-secure-password").call(t, "updateRoutes", map[string]any{"routes": []any{route}}, nil); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("GET %s /x proto=http for=127.0.0.1", p.at(atGateway))
	check := func() {
		t.Helper()
		if got := tool(t, "curl", "apt-get install curl", "-sS", "http://"+p.at(atGateway)+"/x"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	check()
	g.kill() // at once, and without a word
	g = runGateway(t, folder, cfg)
	check()
	g.end(t)
	files, err := os.ReadDir(cfg.Storage.FSPath)
	if err != nil || len(files) == 0 {
		t.Errorf("%v, %v", files, err)
	}
	if left, _ := filepath.Glob(filepath.Join(folder, "*")); len(left) != 3 { // the configuration, and what was printed
		t.Errorf("left beside the storage: %v", left)
	}
}
