package dcrouter

import (
	"context"

	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/storage"
)

// load gives the storage to all parts, of which none serves yet, and has them read
// what they keep there.
func (r *Router) load(ctx context.Context, store *storage.Store) error {
	if r.dns != nil {
		r.dns.UseStorage(store)
	}
	if r.radius != nil {
		r.radius.UseStorage(store)
	}
	if r.email != nil {
		r.email.UseStorage(store)
	}
	if r.records != nil {
		if err := r.records.open(ctx, store); err != nil {
			return inSection("emailConfig", "mail records", err)
		}
	}
	if r.ops != nil {
		r.ops.UseStorage(store)
	}
	if r.blocking != nil {
		r.blocking.keeper.use(store)
	}
	if r.certs != nil {
		if err := r.certs.Load(ctx, store); err != nil {
			return inSection("smartProxyConfig.acme", "certificates", err)
		}
	}
	if r.local != nil {
		if err := r.local.open(ctx, store, r.log); err != nil {
			return err
		}
	}
	if r.mailCert != nil {
		if err := r.mailCert.open(ctx, store, r.config.Email.Hostname, r.log); err != nil {
			return inSection("emailConfig", "email", err)
		}
	}
	if r.hello != nil {
		if err := r.hello.open(ctx, store); err != nil {
			return err
		}
	}
	return r.restore(ctx, store)
}

// restore has in force what was changed last through the operations API, or in code,
// before anybody is served: nobody finds open what is closed by it, or mail going by
// routes that were not confirmed.
func (r *Router) restore(ctx context.Context, store *storage.Store) error {
	if r.radius != nil {
		if err := r.radius.Restore(ctx); err != nil {
			return inSection("radiusConfig", "radius", err)
		}
	}
	if r.email != nil {
		if err := r.email.Restore(ctx); err != nil {
			return inSection("emailConfig", "email", err)
		}
	}
	if r.ops != nil {
		return inSection("opsServerConfig", "operations API", r.ops.Restore(ctx))
	}
	// It may have been there before: what nobody confirmed does not stay as nobody can
	// confirm it any more.
	configuration, err := newOpsConfiguration(r)
	if err != nil {
		return err
	}
	return opsapi.Restore(ctx, store, configuration, r.log)
}
