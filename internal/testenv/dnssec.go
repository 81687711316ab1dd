package testenv

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// DNSZone is a zone that the resolver of [StartDNSSEC] knows.
type DNSZone struct {
	// Name of the zone, as "example.test".
	Name string
	// Records as in a zone file, without the SOA and NS records.
	Records string
	// Signed zones are signed, and the resolver has their key.
	Signed bool
	// Tamper changes the file of a zone after it was signed. Nil leaves it.
	Tamper func(file string) string
}

// StartDNSSEC starts a validating resolver, unbound, in front of nsd, which
// serves zones that ldns-signzone has signed. The resolver listens on addr, or on
// a free port if that is "", and knows no other zones. It returns its address.
func StartDNSSEC(t testing.TB, addr string, zones ...DNSZone) string {
	t.Helper()
	if addr == "" {
		addr = fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	}
	unbound := Need(t, "unbound", "apt-get install unbound")
	nsd := Need(t, "nsd", "apt-get install nsd")
	dir := Folder(t)
	authority := fmt.Sprintf("127.0.0.1@%d", FreePort(t))
	resolver := strings.Replace(addr, ":", "@", 1)
	var nsdConf, unboundConf, stubs strings.Builder
	fmt.Fprintf(&nsdConf, `server:
	ip-address: %s
	username: ""
	chroot: ""
	database: ""
	zonesdir: %q
	pidfile: ""
	xfrdfile: ""
	zonelistfile: "zones.list"
	server-count: 1
remote-control:
	control-enable: no
`, authority, dir)
	fmt.Fprintf(&unboundConf, `server:
	interface: %s
	username: ""
	chroot: ""
	directory: %q
	pidfile: ""
	use-syslog: no
	do-daemonize: no
	do-not-query-localhost: no
	num-threads: 1
	module-config: "validator iterator"
	target-fetch-policy: "0 0 0 0 0"
	local-zone: "test." nodefault
`, resolver, dir)
	for _, z := range zones {
		fmt.Fprintf(&unboundConf, "\tlocal-zone: %q nodefault\n", z.Name+".") // those of tests and private addresses it has itself
		file := writeZoneFile(t, dir, z.Name+".zone", "$ORIGIN "+z.Name+".\n$TTL 300\n@ IN SOA ns hostmaster 1 7200 3600 1209600 60\n@ IN NS ns\nns IN A 127.0.0.1\n"+z.Records+"\n")
		if z.Signed {
			var anchor string
			file, anchor = signZone(t, dir, z.Name, file)
			fmt.Fprintf(&unboundConf, "\ttrust-anchor: %q\n", anchor)
		}
		if z.Tamper != nil {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			writeZoneFile(t, dir, filepath.Base(file), z.Tamper(string(text)))
		}
		fmt.Fprintf(&nsdConf, "zone:\n\tname: %s\n\tzonefile: %s\n", z.Name, filepath.Base(file))
		fmt.Fprintf(&stubs, "stub-zone:\n\tname: %s\n\tstub-addr: %s\n\tstub-no-cache: no\n", z.Name, authority)
	}
	// All other names fail at once: nothing here asks the Internet.
	fmt.Fprintf(&stubs, "forward-zone:\n\tname: \".\"\n\tforward-addr: %s\n", authority)
	fmt.Fprintf(&unboundConf, "%sremote-control:\n\tcontrol-enable: no\n", stubs.String())

	Start(t, Opts{Dir: dir, Ready: dialable(authority)}, nsd, "-d", "-c", writeZoneFile(t, dir, "nsd.conf", nsdConf.String()))
	Start(t, Opts{Dir: dir, Ready: addr}, unbound, "-d", "-p", "-c", writeZoneFile(t, dir, "unbound.conf", unboundConf.String()))
	for _, z := range zones {
		waitForZone(t, dialable(authority), z.Name)
	}
	return addr
}

// waitForZone waits until nsd has read a zone: it accepts connections before.
func waitForZone(t testing.TB, authority, zone string) {
	t.Helper()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", authority)
	}}
	WaitFor(t, time.Minute, func() error {
		_, err := r.LookupNS(t.Context(), zone+".")
		return err
	})
}

// signZone returns the file of the signed zone, and the DS record of its key.
func signZone(t testing.TB, dir, zone, file string) (signed, anchor string) {
	t.Helper()
	run := func(tool string, args ...string) string {
		cmd := exec.Command(Need(t, tool, "apt-get install ldnsutils"), args...)
		cmd.Dir = dir
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", tool, err, stderr.String())
		}
		return strings.TrimSpace(string(out))
	}
	key := run("ldns-keygen", "-k", "-a", "ECDSAP256SHA256", zone)
	run("ldns-signzone", "-f", zone+".signed", file, key)
	ds, err := os.ReadFile(filepath.Join(dir, key+".ds"))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, zone+".signed"), strings.Join(strings.Fields(string(ds)), " ")
}

func dialable(addr string) string { return strings.Replace(addr, "@", ":", 1) }

func writeZoneFile(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
