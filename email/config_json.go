package email

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

// Format prints the route as JSON with secrets replaced by ***, whatever the
// verb.
func (r Route) Format(f fmt.State, _ rune) { conf.Format(f, r) }

// MarshalJSON writes the route in its documented form, with secrets replaced
// by ***.
func (r Route) MarshalJSON() ([]byte, error) { return conf.Encode(r, false) }

// UnmarshalJSON reads the documented form strictly, as [Config.UnmarshalJSON]
// does.
func (r *Route) UnmarshalJSON(data []byte) error { return conf.Decode(data, r) }

// UnmarshalScalar takes a number, the short form of a port with its usual
// mode.
func (p *Port) UnmarshalScalar(v any) error {
	n, ok := v.(float64)
	if !ok || n != float64(int(n)) {
		return errors.New("want a port number or an object with port and mode")
	}
	p.Port = int(n)
	return nil
}

// MarshalScalar gives the short form of a port with its usual mode.
func (p Port) MarshalScalar() (any, bool) { return p.Port, p.Mode == "" }
