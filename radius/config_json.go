package radius

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
