package proxy

import (
	"errors"
	"fmt"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// Format prints the configuration as JSON with secrets replaced by ***,
// whatever the verb.
func (c Config) Format(f fmt.State, _ rune) { conf.Format(f, c) }

// MarshalJSON writes the configuration in its documented form, with secrets
// replaced by ***.
func (c Config) MarshalJSON() ([]byte, error) { return conf.Encode(c, false) }

// UnmarshalJSON reads the documented form strictly: an unknown field is an
// error. All problems come back at once, each with the path of its field.
func (c *Config) UnmarshalJSON(data []byte) error { return conf.Decode(data, c) }

// Format prints the route as Config's does.
func (r Route) Format(f fmt.State, _ rune) { conf.Format(f, r) }

// Format prints the action as Config's does.
func (a Action) Format(f fmt.State, _ rune) { conf.Format(f, a) }

// Format prints the settings as Config's does.
func (l LoadBalancing) Format(f fmt.State, _ rune) { conf.Format(f, l) }

// MarshalJSON writes the route in its documented form, with secrets replaced
// by ***. A Handler, SocketHandler or PortFunc cannot be written.
func (r Route) MarshalJSON() ([]byte, error) { return conf.Encode(r, false) }

// UnmarshalJSON reads the documented form strictly, as [Config.UnmarshalJSON]
// does.
func (r *Route) UnmarshalJSON(data []byte) error { return conf.Decode(data, r) }

// UnmarshalScalar takes a single port, the short form of a range.
func (p *PortRange) UnmarshalScalar(v any) error {
	n, ok := v.(float64)
	if !ok || n != float64(int(n)) {
		return errors.New("want a port number or an object with from and to")
	}
	p.From, p.To = int(n), int(n)
	return nil
}

// MarshalScalar gives the short form of a range of one port.
func (p PortRange) MarshalScalar() (any, bool) { return p.From, p.From == p.To }

// UnmarshalScalar takes "auto", the short form of an automatic certificate.
func (c *Certificate) UnmarshalScalar(v any) error {
	if v != "auto" {
		return errors.New(`want "auto" or an object with certPath and keyPath`)
	}
	c.Auto = true
	return nil
}

// MarshalScalar gives the short form of an automatic certificate.
func (c Certificate) MarshalScalar() (any, bool) { return "auto", c.Auto }
