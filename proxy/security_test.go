package proxy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"testing"
)

// securityRules are the rules that other proxies have got wrong, and the tests
// with the attack's bytes that keep us from doing so.
var securityRules = []struct {
	rule, seenIn string
	tests        []string
}{
	{"A ClientHello is put together across records and segments, and one that cannot be is closed, never routed by default",
		"CVE-2026-32305", []string{"TestTLSHelloInPieces", "TestHelloMutations", "TestHelloBounds", "TestTLSGarbage"}},
	{"One host function reads SNI, Host, :authority and QUIC's names: case, trailing dot, wildcard",
		"CVE-2022-23632, CVE-2026-27588", []string{"TestCanonicalHost", "TestTLSServerNames", "TestHTTP3Names"}},
	{"A request under a name with another TLS policy than its connection's gets 421",
		"CVE-2022-23632", []string{"TestTLSMisdirected", "TestTLSPolicyChangesUnderConnection", "TestHTTP3PolicyChangesUnderConnection"}},
	{"Every phase before routing has a deadline",
		"CVE-2026-25949", []string{"TestHTTPHeadDeadline", "TestProxyHeaderDeadline", "TestSniffIsBounded", "TestHTTP3Deadlines"}},
	{"Mistakes in client authentication fail closed",
		"CVE-2026-27586", []string{"TestTLSBadFiles", "TestTLSClientAuth", "TestHTTP3ClientAuth"}},
	{"Ambiguous framing and malformed heads are refused: both lengths, two lengths, no length, nameless lines, bare LF, space before the colon, folds",
		"CVE-2023-25725, CVE-2023-40225, CVE-2021-40346", []string{"TestHTTPMalformed", "TestHTTPAmbiguousLength", "TestLanesGiveTheSameBytes", "FuzzStrict"}},
	{"Headers that Connection names are removed before ours are added",
		"CVE-2024-45410", []string{"TestConnectionHeaders"}},
	{"What a client says of itself is not believed, under aliases neither",
		"CVE-2026-39858, CVE-2026-52845", []string{"TestForwardedHeaders", "TestIsForwardedHeader"}},
	{"The path that was matched is the path that is sent",
		"CVE-2025-66490, CVE-2019-9901", []string{"TestHTTPPaths", "TestCanonicalPath", "TestTLSHTTP2Paths", "TestHTTPTargetForms"}},
	{"An upgrade succeeds on 101 alone, and its connection is never pooled",
		"CVE-2024-23326", []string{"TestWebSocketRefused", "TestHTTPUpgradeH2C", "TestWebSocketOnStreamRefused"}},
	{"HTTP/2: streams, resets, CONTINUATION and floods are bounded",
		"CVE-2023-44487, CVE-2023-45288, CVE-2024-30255", []string{"TestHTTP2RapidReset", "TestHTTP2ContinuationFlood", "TestHTTP2FrameFloods", "TestHTTP2MaxConcurrentStreams"}},
	{"A head is bounded in size and lines, and clients that send or read slowly in time",
		"", []string{"TestHTTPHeadLimits", "TestManyHeaders", "TestHTTPStalledBody", "TestHTTP2SlowReader", "TestDrainOfClientThatDoesNotRead"}},
	{"A PROXY header is believed of the peers that are named, and its parts are bounded",
		"CVE-2024-23327", []string{"TestProxyHeaderByPeer", "TestProxyHeader"}},
	{"No line break gets into a header that we write",
		"", []string{"TestHeaderInjection", "TestRedirectStaysHere"}},
	{"A response is given to nobody but who asked, whatever a target says beyond it",
		"", []string{"TestTargetThatSaysTooMuch"}},
}

func TestEverySecurityRuleHasItsTests(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				known[f.Name.Name] = true
			}
		}
	}
	for _, r := range securityRules {
		for _, name := range r.tests {
			if !known[name] {
				t.Errorf("%s: there is no %s", r.rule, name)
			}
		}
	}
}

// A target that sends a second response must not have it taken for the answer
// to the next request.
func TestTargetThatSaysTooMuch(t *testing.T) {
	const poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	target := answers(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"+poison)
	p := start(t, oneRoute(forwardTo(target)))
	c := client(t, addr(t, p, 0), nil)
	for range 20 {
		if status, body := get(t, c, "http://a.test/"); status != 200 || body != "ok" {
			t.Fatalf("%d, %q", status, body)
		}
	}
}
