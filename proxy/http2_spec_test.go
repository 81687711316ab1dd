package proxy

import (
	"encoding/xml"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// h2spec runs the conformance tests against a server and returns the names of
// those that it fails, and how many there are.
func h2spec(t *testing.T, tool, addr string, secure bool) (failed []string, total int, err error) {
	host, port, _ := net.SplitHostPort(addr)
	report := filepath.Join(t.TempDir(), "report.xml")
	args := []string{"-h", host, "-p", port, "-j", report, "-P", "/"}
	if secure {
		args = append(args, "-t", "-k")
	}
	out, err := testenv.Command(t, tool, args...).CombinedOutput() // not 0 if a test fails
	text, readErr := os.ReadFile(report)
	if readErr != nil {
		return nil, 0, fmt.Errorf("%v, %v\n%s", err, readErr, out)
	}
	var suites struct {
		Suites []struct {
			Cases []struct {
				Package string    `xml:"package,attr"`
				Name    string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &suites); err != nil {
		return nil, 0, err
	}
	for _, s := range suites.Suites {
		for _, c := range s.Cases {
			total++
			if c.Failure != nil || c.Error != nil {
				failed = append(failed, c.Package+" "+c.Name)
			}
		}
	}
	slices.Sort(failed)
	return failed, total, nil
}

// The protocol is left to net/http, which passes 137 to 140 tests by itself.
func TestH2Spec(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some time")
	}
	tool := testenv.Need(t, "h2spec", "go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible")
	files, _ := tlsFiles(t, "a.test")
	_, target := backend(t, says(strings.Repeat("x", 100)))
	var running sync.WaitGroup // at once, since most of what it does is to wait
	for _, webSockets := range []bool{false, true} {
		port := testenv.FreePort(t)
		p := start(t, Config{HTTP2: HTTP2{WebSockets: &webSockets}, Routes: []Route{
			tlsRoute("secure", files, forwardTo(target)),
			{Name: "plain", Match: Match{Ports: Ports(port), Protocol: "http"}, Action: forwardTo(target)},
		}})
		for at, secure := range map[string]bool{addr(t, p, 0): true, addr(t, p, port): false} {
			running.Go(func() {
				failed, total, err := h2spec(t, tool, at, secure)
				t.Logf("TLS %v, WebSockets %v: %d of %d, without %q, %v", secure, webSockets, total-len(failed), total, failed, err)
				if total-len(failed) < 137 {
					t.Errorf("TLS %v, WebSockets %v: %d of %d pass, want 137", secure, webSockets, total-len(failed), total)
				}
			})
		}
	}
	running.Wait() // each program has its limit
}
