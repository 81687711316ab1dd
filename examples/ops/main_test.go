package main

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	testenv.Need(t, "curl", "apt-get install curl")
	p := testenv.StartMain(t, testenv.Opts{Env: []string{"ADMIN_PASSWORD=hunter2hunter2"}}, "-listen", testenv.Address(t))
	p.Try(t, "adminLogin")
	testenv.WaitFor(t, time.Minute, func() error { // some of everything that the dashboard draws
		var s struct {
			Stats struct {
				Proxy struct {
					Requests int
					Refused  map[string]int
				}
				DNS   struct{ RCodes map[string]int }
				Email struct {
					Messages struct{ Accepted int }
					Refused  map[string]int
				}
			}
		}
		if err := json.Unmarshal([]byte(p.Try(t, "getServerStatistics")), &s); err != nil {
			return err
		}
		for _, n := range []int{
			s.Stats.Proxy.Requests, s.Stats.Proxy.Refused["blocked"], s.Stats.DNS.RCodes["NOERROR"], s.Stats.DNS.RCodes["NXDOMAIN"],
			s.Stats.Email.Messages.Accepted, s.Stats.Email.Refused["relay"],
		} {
			if n == 0 {
				return fmt.Errorf("something stands still: %+v", s)
			}
		}
		return nil
	})
	p.Try(t, "getLatency", `"milliseconds":`)
	p.Try(t, "/events", "event: stats\n")
	p.Try(t, "/metrics", "dcrouter_dns_queries_total")
	p.Try(t, "/readyz", `"ready":true`)
	p.Interrupt(t)
}
