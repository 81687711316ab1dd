package opsapi

import "github.com/dcrouter/dcrouter/internal/conf"

// Validate checks everything that can be told without I/O and returns all
// mistakes at once, each a [*FieldError].
func (c *Config) Validate() error {
	check := conf.NewChecker()
	check.Field("listenHost").ListenHost(c.ListenHost)
	if c.Port != nil {
		check.Field("port").ListenPort(*c.Port)
	}
	admin := check.Field("admin")
	admin.Field("username").Required(c.Admin.Username)
	admin.Field("username").Line(c.Admin.Username)
	admin.Field("password").RequiredSecret(c.Admin.Password)
	return check.Err()
}
