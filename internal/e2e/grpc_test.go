package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
)

// certificate is for a.test, and for addresses on loopback.
type certificate struct {
	cert, key string
	pool      *x509.CertPool
	pair      tls.Certificate
}

func newCertificate(t *testing.T) *certificate {
	t.Helper()
	c := new(certificate)
	c.cert, c.key, c.pool = testenv.SelfSigned(t, "a.test", "127.0.0.1")
	var err error
	if c.pair, err = tls.LoadX509KeyPair(c.cert, c.key); err != nil {
		t.Fatal(err)
	}
	return c
}

// grpcServer runs gRPC's test service.
func grpcServer(t *testing.T, c *certificate) (*grpc.Server, proxy.Target) {
	t.Helper()
	var opts []grpc.ServerOption
	if c != nil {
		opts = append(opts, grpc.Creds(credentials.NewServerTLSFromCert(&c.pair)))
	}
	s := grpc.NewServer(opts...)
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(ln)
	t.Cleanup(s.Stop)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	n, _ := strconv.Atoi(port)
	return s, proxy.Target{Host: "127.0.0.1", Port: n}
}

// grpcRoute leads to targets that speak gRPC. front and upstream are "h2", with
// TLS, or "h2c".
func grpcRoute(front, upstream string, c *certificate, targets ...proxy.Target) proxy.Route {
	r := proxy.Route{Name: "grpc", Match: proxy.Match{Ports: proxy.Ports(0)},
		Action: proxy.Action{Type: proxy.Forward, Targets: targets, UpstreamProtocol: upstream}}
	if front == proxy.H2 {
		r.Match.Domains = []string{"a.test"}
		r.Action.TLS = &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{CertPath: c.cert, KeyPath: c.key}}
		if upstream == proxy.H2 {
			r.Action.TLS.Mode = proxy.TerminateAndReencrypt
			r.Action.TLS.Upstream.CAPath = c.cert
		}
	}
	return r
}

// startProxy runs a proxy on loopback and returns its address.
func startProxy(t *testing.T, cfg proxy.Config) (*proxy.Proxy, string) {
	t.Helper()
	cfg.ListenHost = "127.0.0.1"
	p, err := proxy.New(cfg, proxy.WithLogger(slog.New(slog.NewTextHandler(t.Output(), nil))))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		p.Stop(ctx)
	})
	return p, p.Addr(0).String()
}

// grpcClient connects to the proxy.
func grpcClient(t *testing.T, front, addr string, c *certificate) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if front == proxy.H2 {
		creds = credentials.NewTLS(&tls.Config{ServerName: "a.test", RootCAs: c.pool})
	}
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// The cases of gRPC's interoperability tests that are about the protocol. They
// end the process with a message where they fail.
func TestGRPCInterop(t *testing.T) {
	testenv.Goroutines(t)
	c := newCertificate(t)
	for _, way := range [][2]string{{proxy.H2, proxy.H2}, {proxy.H2, proxy.H2C}, {proxy.H2C, proxy.H2C}} {
		front, upstream := way[0], way[1]
		own := c
		if upstream == proxy.H2C {
			own = nil
		}
		_, target := grpcServer(t, own)
		p, addr := startProxy(t, proxy.Config{Routes: []proxy.Route{grpcRoute(front, upstream, c, target)}})
		cc := grpcClient(t, front, addr, c)
		tc := testgrpc.NewTestServiceClient(cc)
		for _, test := range []struct {
			name string
			do   func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)
		}{
			{"empty_unary", interop.DoEmptyUnaryCall},
			{"large_unary", interop.DoLargeUnaryCall},
			{"client_streaming", interop.DoClientStreaming},
			{"server_streaming", interop.DoServerStreaming},
			{"ping_pong", interop.DoPingPong},
			{"empty_stream", interop.DoEmptyStream},
			{"timeout_on_sleeping_server", interop.DoTimeoutOnSleepingServer},
			{"cancel_after_begin", interop.DoCancelAfterBegin},
			{"cancel_after_first_response", interop.DoCancelAfterFirstResponse},
			{"custom_metadata", interop.DoCustomMetadata},
			{"status_code_and_message", interop.DoStatusCodeAndMessage},
			{"special_status_message", interop.DoSpecialStatusMessage},
			{"unimplemented_method", func(ctx context.Context, _ testgrpc.TestServiceClient, _ ...grpc.CallOption) {
				interop.DoUnimplementedMethod(ctx, cc)
			}},
			{"unimplemented_service", func(ctx context.Context, _ testgrpc.TestServiceClient, _ ...grpc.CallOption) {
				interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(cc))
			}},
		} {
			t.Run(front+" "+upstream+" "+test.name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				test.do(ctx, tc)
			})
		}
		testenv.WaitFor(t, 5*time.Second, func() error {
			if s := p.Stats().Targets[0]; s.Active != 0 || s.Total == 0 {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		cc.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		p.Stop(ctx)
		cancel()
	}
}

// A server that shuts down gracefully, as in a rolling restart, costs no call:
// those under way finish, and those that come too late go to another server.
func TestGRPCRollingRestart(t *testing.T) {
	testenv.Goroutines(t)
	c := newCertificate(t)
	first, one := grpcServer(t, nil)
	_, two := grpcServer(t, nil)
	_, addr := startProxy(t, proxy.Config{Routes: []proxy.Route{grpcRoute(proxy.H2, proxy.H2C, c, one, two)}})
	tc := testgrpc.NewTestServiceClient(grpcClient(t, proxy.H2, addr, c))

	var calls, failed atomic.Int64
	stop := make(chan struct{})
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			req := &testgrpc.SimpleRequest{ResponseSize: 1000, Payload: &testgrpc.Payload{Body: make([]byte, 1000)}}
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				resp, err := tc.UnaryCall(ctx, req)
				cancel()
				if calls.Add(1); err != nil || len(resp.GetPayload().GetBody()) != 1000 {
					failed.Add(1)
					t.Errorf("call %d: %v", calls.Load(), err)
				}
			}
		})
	}
	await := func(n int64) {
		testenv.WaitFor(t, 20*time.Second, func() error {
			if got := calls.Load(); got < n {
				return fmt.Errorf("%d calls, want %d", got, n)
			}
			return nil
		})
	}
	await(200)
	first.GracefulStop()
	await(calls.Load() + 500)
	close(stop)
	running.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d calls failed", n, calls.Load())
	}
}

// What the proxy answers itself is an error that gRPC clients understand.
func TestGRPCErrors(t *testing.T) {
	testenv.Goroutines(t)
	c := newCertificate(t)
	dead := proxy.Target{Host: "127.0.0.1", Port: testenv.FreePort(t)}
	blocked := grpcRoute(proxy.H2C, proxy.H2C, c, dead)
	blocked.Name, blocked.Match.Path = "blocked", "/grpc.testing.TestService/EmptyCall"
	blocked.Action.Security.IPBlockList = []string{"127.0.0.0/8"}
	unreachable := grpcRoute(proxy.H2C, proxy.H2C, c, dead)
	unreachable.Match.Path = "/grpc.testing.TestService/*"
	_, addr := startProxy(t, proxy.Config{Routes: []proxy.Route{blocked, unreachable}})
	cc := grpcClient(t, proxy.H2C, addr, c)
	tc := testgrpc.NewTestServiceClient(cc)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := tc.UnaryCall(ctx, &testgrpc.SimpleRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("dead target: %v", err)
	}
	if _, err := tc.EmptyCall(ctx, &testgrpc.Empty{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("blocked: %v", err)
	}
	if _, err := testgrpc.NewUnimplementedServiceClient(cc).UnimplementedCall(ctx, &testgrpc.Empty{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("no route: %v", err)
	}
}
