package opsapi

import (
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/opsapi/internal/password"
)

// Validate checks everything that can be told without I/O and returns all
// mistakes at once, each a [*FieldError].
func (c *Config) Validate() error {
	check := conf.NewChecker()
	check.Field("listenHost").ListenHost(c.ListenHost)
	if c.Port != nil {
		check.Field("port").ListenPort(*c.Port)
	}
	admin := check.Field("admin")
	checkUsername(admin.Field("username"), c.Admin.Username)
	checkPassword(admin.Field("password"), c.Admin.Password)
	names := map[string]int{}
	for i, u := range c.Users {
		at := check.Field("users").Index(i)
		checkUsername(at.Field("username"), u.Username)
		at.Field("username").Unique(names, u.Username, "users", i)
		if u.Username != "" && u.Username == c.Admin.Username {
			at.Field("username").Errorf("%q is the name of admin", u.Username)
		}
		checkPassword(at.Field("password"), u.Password)
		at.Field("role").OneOf(u.Role, RoleViewer.String(), RoleOperator.String(), RoleAdmin.String())
	}
	check.Field("trustedProxies").CIDRs(c.TrustedProxies)
	check.Field("metricsToken").Secret(c.MetricsToken)
	return check.Err()
}

// maxUsername bounds a name, in bytes.
const maxUsername = 128

func checkUsername(at *conf.Checker, name string) {
	at.Required(name)
	if name == hostAuthor {
		at.Errorf("%q is who changes the configuration without the API, in its history", name)
	}
	at.Line(name)
	if len(name) > maxUsername {
		at.Errorf("longer than %d bytes", maxUsername)
	}
}

func checkPassword(at *conf.Checker, secret Secret) {
	at.RequiredSecret(secret)
	switch text := secret.Reveal(); {
	case password.IsHash(text):
		if _, err := password.Parse(text); err != nil {
			at.Errorf("%v", err)
		}
	case len(text) > password.MaxLength:
		at.Errorf("longer than %d bytes", password.MaxLength)
	}
}
