package tlspolicy

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/dnsc"
	"github.com/dcrouter/dcrouter/email/internal/smtpc"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// record makes the data of a TLSA record for a certificate.
func record(usage, selector, matching int, cert *x509.Certificate) string {
	data := cert.Raw
	if selector == 1 {
		data = cert.RawSubjectPublicKeyInfo
	}
	switch matching {
	case 1:
		sum := sha256.Sum256(data)
		data = sum[:]
	case 2:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return fmt.Sprintf("%d %d %d %s", usage, selector, matching, hex.EncodeToString(data))
}

// DANE with a real Postfix behind a real validating resolver; Postfix's own
// client has to come to the same verdict each time.
func TestDANE(t *testing.T) {
	testenv.Goroutines(t)
	root := issue(t, nil, "root", authority)
	middle := issue(t, root, "middle", authority)
	leaf := issue(t, middle, "leaf", forNames("*.signed.test", "signed.test"))
	stranger := issue(t, nil, "stranger", authority)
	old := issue(t, middle, "old", expired("*.signed.test"))
	alone := issue(t, nil, "alone", forNames("*.signed.test"))

	other := issue(t, middle, "other", forNames("elsewhere.test", "*.elsewhere.test"))
	addrs := startPostfix(t, leaf, old, alone, other, nil)
	servers := map[string]string{"good": addrs[0], "old": addrs[1], "alone": addrs[2], "other": addrs[3], "plain": addrs[4]}
	wrong := strings.Repeat("00", 32)
	cert, middleCert, rootCert := leaf.certs[0], middle.certs[0], root.certs[0]
	cases := []struct {
		host, server string
		records      []string
		want         string
	}{
		{"ee01", "good", []string{record(3, 0, 1, cert)}, "verified"},
		{"ee02", "good", []string{record(3, 0, 2, cert)}, "verified"},
		{"ee00", "good", []string{record(3, 0, 0, cert)}, "verified"},
		{"ee11", "good", []string{record(3, 1, 1, cert)}, "verified"},
		{"ee12", "good", []string{record(3, 1, 2, cert)}, "verified"},
		{"ee10", "good", []string{record(3, 1, 0, cert)}, "verified"},
		{"eeold", "old", []string{record(3, 1, 1, old.certs[0])}, "verified"},      // times do not count
		{"eename", "other", []string{record(3, 1, 1, other.certs[0])}, "verified"}, // nor do names
		{"eebad", "good", []string{"3 1 1 " + wrong}, "failed"},
		{"eemid", "good", []string{record(3, 1, 1, middleCert)}, "failed"}, // that is an authority's key
		{"roll", "good", []string{"3 1 1 " + wrong, record(3, 1, 1, cert)}, "verified"},
		{"agile", "good", []string{record(3, 1, 1, cert), "3 1 2 " + wrong + wrong}, "failed"}, // the stronger digest counts
		{"ta01", "good", []string{record(2, 0, 1, middleCert)}, "verified"},
		{"ta11", "good", []string{record(2, 1, 1, rootCert)}, "verified"},
		{"ta00", "good", []string{record(2, 0, 0, rootCert)}, "verified"},
		{"ta12", "good", []string{record(2, 1, 2, middleCert)}, "verified"},
		{"tabad", "good", []string{record(2, 0, 1, stranger.certs[0])}, "failed"},
		{"taown", "alone", []string{record(2, 0, 1, alone.certs[0])}, "failed"}, // no authority but the server itself
		{"tastr", "alone", []string{record(2, 0, 0, stranger.certs[0])}, "failed"},
		{"taold", "old", []string{record(2, 0, 1, middleCert)}, "failed"},    // times count
		{"taname", "other", []string{record(2, 0, 1, middleCert)}, "failed"}, // and names
		{"both", "good", []string{"2 0 1 " + wrong, record(3, 1, 1, cert)}, "verified"},
		{"pkix", "good", []string{"0 0 1 " + wrong, "1 1 1 " + wrong}, "unverified"}, // not for mail
		{"odd", "good", []string{"3 2 1 " + wrong, "3 0 7 " + wrong, "9 0 1 " + wrong, "3 1 1 0011"}, "unverified"},
		{"notls", "plain", []string{record(3, 1, 1, cert)}, "no TLS"},
		{"nonetls", "plain", []string{"0 0 1 " + wrong}, "no TLS"},
		{"ta.deep", "good", []string{record(2, 0, 1, middleCert)}, "verified for the domain"},
	}
	var zone strings.Builder
	for _, c := range cases {
		_, port, _ := net.SplitHostPort(servers[c.server])
		fmt.Fprintf(&zone, "%s A 127.0.0.1\n", c.host)
		for _, r := range c.records {
			// Postfix's client asks for the port that it connects to.
			fmt.Fprintf(&zone, "_25._tcp.%[1]s TLSA %[2]s\n_%[3]s._tcp.%[1]s TLSA %[2]s\n", c.host, r, port)
		}
	}
	addr := testenv.Loopback(t, "127.83.25.1") + ":53"
	if os.Getuid() != 0 {
		testenv.Lacks(t, "Postfix's client needs a name server on port 53, for which one has to be root")
	}
	testenv.StartDNSSEC(t, addr, testenv.DNSZone{Name: "signed.test", Records: zone.String(), Signed: true})
	dns, err := dnsc.New(dnsc.Config{Servers: []string{addr}, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	reported := &sessions{}
	policies, err := Open(t.Context(), Config{Resolver: dns, DNS: dns, Roots: pool(stranger), Report: reported.add})
	if err != nil {
		t.Fatal(err)
	}
	defer policies.Close()
	policy, err := policies.For(t.Context(), Destination{"Signed.test", true}, Default)
	if err != nil {
		t.Fatal(err)
	}
	finger := newFinger(t, addr)

	for _, c := range cases {
		host := c.host + ".signed.test"
		r := policy.Host(t.Context(), host)
		if r.Refuse != nil || r.Source != "dane" || r.Mode != smtpc.StartTLS || r.ServerName != host {
			t.Errorf("%s: %+v", c.host, r)
			continue
		}
		conn, err := smtpc.Dial(t.Context(), smtpc.Config{
			Address: servers[c.server], Hostname: "client.test", TLS: r.Mode, TLSConfig: r.Config, ServerName: r.ServerName,
		})
		out := Outcome{Host: host, Err: err}
		if err == nil {
			out.TLS = conn.TLS()
			conn.Close()
		}
		policy.Result(out)
		got := "failed"
		switch {
		case err == nil && r.Key == keyUnverified:
			got = "unverified"
		case err == nil:
			got = "verified"
		case strings.Contains(err.Error(), "does not offer STARTTLS"):
			got = "no TLS"
		}
		if want, _, _ := strings.Cut(c.want, " for the domain"); got != want {
			t.Errorf("%s: %s (%v), want %s", c.host, got, err, want)
		}
		list := reported.take()
		if len(list) != 1 || (list[0].Failure == "") != (got == "verified") || list[0].Policy.Type != "tlsa" || list[0].Policy.Domain != host || len(list[0].Policy.Lines) != len(c.records) {
			t.Errorf("%s: reported %+v", c.host, list)
		}

		if c.want == "verified for the domain" {
			continue // its client was not told of the domain
		}
		said := finger(host, servers[c.server])
		postfix := "failed"
		switch {
		case strings.Contains(said, "Verified TLS connection"):
			postfix = "verified"
		case strings.Contains(said, "Untrusted TLS connection") && c.want == "unverified":
			postfix = "unverified"
		case strings.Contains(said, "Server certificate not"):
		case !strings.Contains(said, "TLS connection"):
			postfix = "no TLS"
		}
		if postfix != got {
			t.Errorf("%s: Postfix says %s, we %s:\n%s", c.host, postfix, got, said)
		}
	}
}

// newFinger returns a func that runs Postfix's TLS client with a DNS server of
// ours, in a mount namespace where that is the system's.
func newFinger(t *testing.T, dns string) func(host, addr string) string {
	t.Helper()
	tool := testenv.Need(t, "posttls-finger", "apt-get install postfix")
	unshare := testenv.Need(t, "unshare", "apt-get install util-linux")
	ip, _, _ := net.SplitHostPort(dns)
	resolv := filepath.Join(testenv.Folder(t), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver "+ip+"\noptions trust-ad\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(unshare, "-m", "mount", "--bind", resolv, "/etc/resolv.conf").CombinedOutput(); err != nil {
		testenv.Lacks(t, "a file cannot be mounted over resolv.conf: %v: %s", err, out)
	}
	return func(host, addr string) string {
		_, port, _ := net.SplitHostPort(addr)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, _ := exec.CommandContext(ctx, unshare, "-m", "sh", "-c", `mount --bind "$1" /etc/resolv.conf && exec "$2" -c -t 30 -T 30 -l dane -L summary,certmatch "[$3]:$4"`, "sh", resolv, tool, host, port).CombinedOutput()
		return string(out)
	}
}
