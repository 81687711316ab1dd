package proxy

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A server breaks off a call whose time has run out. The client, whose clock may
// be a little later, is told that and not that there is no server, and the
// target is not the worse for it.
func TestGRPCDeadline(t *testing.T) {
	a := h2Server(t, func(p *h2Peer) {
		for {
			id, begun := p.request()
			if id == 0 {
				return
			}
			if begun != "" {
				var block bytes.Buffer
				enc := hpack.NewEncoder(&block)
				enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
				enc.WriteField(hpack.HeaderField{Name: "content-type", Value: "application/grpc"})
				p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true})
				p.WriteData(id, false, []byte(begun))
			}
			time.Sleep(20 * time.Millisecond)
			p.WriteRSTStream(id, http2.ErrCodeCancel)
		}
	})
	files, _ := tlsFiles(t, "a.test")
	p, addrs := h2Front(t, nil, files, a)
	h := h2Dial(t, addrs["h2c"], nil)
	id := uint32(1)
	for _, test := range []struct {
		kind, timeout string
		over, ends    bool
	}{
		{"application/grpc", "10m", true, true},
		{"application/grpc+proto", "10000u", true, true},
		{"application/grpc-web+proto", "10m", true, false}, // whose trailer is in the body
		{"application/grpc", "10S", false, false},
		{"application/grpc", "", false, false},
		{"text/plain", "10m", false, false},
	} {
		for _, body := range []string{"", "x"} {
			before := p.Stats().Targets[0].Failures
			fields := []string{"te", "trailers", "content-type", test.kind}
			if test.timeout != "" {
				fields = append(fields, "grpc-timeout", test.timeout)
			}
			h.open(id, false, "POST", "a.test", "/", fields...)
			h.WriteData(id, true, []byte(body))
			got, err := h.answer(id)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case !test.over && body == "":
				if got.head[":status"] != "502" {
					t.Errorf("%+v: %v, want 502", test, got)
				}
			case body != "" && !test.ends:
				if got.reset == nil {
					t.Errorf("%+v: %v, want a reset", test, got)
				}
			case body == "":
				if got.head[":status"] != "200" || got.head["grpc-status"] != "4" || got.head["content-type"] != test.kind || got.body != "" || got.reset != nil {
					t.Errorf("%+v: %v, want status 4 of gRPC", test, got)
				}
			default:
				if got.head[":status"] != "200" || got.trailer["grpc-status"] != "4" || got.body != body || got.reset != nil {
					t.Errorf("%+v: %v, want %q and then status 4 of gRPC", test, got, body)
				}
			}
			if failed := p.Stats().Targets[0].Failures != before; failed == test.over {
				t.Errorf("%+v, body %q: counted as a failure of the target: %v", test, body, failed)
			}
			id += 2
		}
	}
}

func TestGRPCTimeout(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "4m": 4 * time.Millisecond, "5u": 5 * time.Microsecond, "6n": 6,
		"00000000n": 0, "99999999n": 99999999, "99999999H": 1000 * time.Hour,
		"": -1, "1": -1, "H": -1, "1h": -1, "-1S": -1, "+1S": -1, " 1S": -1, "1 S": -1, "1.5S": -1, "999999999n": -1,
	} {
		got, ok := parseGRPCTimeout(text)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
