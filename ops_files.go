package dcrouter

import (
	"context"
	"strings"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
)

// onlyKnownFiles refuses routes with files and folders of this machine that are
// not in the configuration yet, unless an admin has sent them. Operators change
// routes; but by a route that serves the folder of the storage they would become
// admins, as the key for tokens is there.
func onlyKnownFiles(ctx context.Context, before, after Config) error {
	who, signedIn := opsapi.IdentityFrom(ctx)
	if !signedIn || who.Role >= opsapi.RoleAdmin {
		return nil // the host itself, or who may do all
	}
	known := map[string]bool{}
	visitFiles(before, func(_, name string) { known[name] = true })
	check := conf.NewChecker()
	visitFiles(after, func(field, name string) {
		if !known[name] {
			check.Add(&FieldError{Path: field, Msg: "a file or folder that is not in the configuration yet takes the role " + opsapi.RoleAdmin.String()})
		}
	})
	return check.Err()
}

// visitFiles calls visit with the files and folders that routes name.
func visitFiles(c Config, visit func(field, name string)) {
	if c.Proxy == nil {
		return
	}
	for i := range c.Proxy.Routes {
		a := &c.Proxy.Routes[i].Action
		at := conf.NewChecker().Field("smartProxyConfig").Field("routes").Index(i).Field("action").Path()
		for field, name := range filesOf(a) {
			if name != "" {
				visit(strings.Join([]string{at, field}, "."), name)
			}
		}
	}
}

func filesOf(a *proxy.Action) map[string]string {
	files := map[string]string{"root": a.Root}
	if t := a.TLS; t != nil {
		files["tls.certificate.certPath"], files["tls.certificate.keyPath"] = t.Certificate.CertPath, t.Certificate.KeyPath
		files["tls.upstream.caPath"] = t.Upstream.CAPath
		if t.ClientAuth != nil {
			files["tls.clientAuth.caPath"] = t.ClientAuth.CAPath
		}
	}
	return files
}
