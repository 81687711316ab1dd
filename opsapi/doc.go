// Package opsapi is the operator's desk of a gateway: an API, and the files of a
// web interface, by which statistics, routes, configuration, mail, DNS records,
// certificates, sessions and logs are seen and changed.
//
// It knows none of the things that it manages. A host gives it what it has, each
// behind a small interface, and the rest answers "not configured":
//
//	logs := opsapi.NewLogBuffer(slog.NewTextHandler(os.Stderr, nil))
//	s, err := opsapi.New(
//		opsapi.Config{Admin: opsapi.Admin{Username: "admin", Password: "..."}},
//		opsapi.WithLogger(slog.New(logs)), opsapi.WithLogs(logs), opsapi.WithStorage(store),
//		opsapi.WithStats(func() any { return proxy.Stats() }),
//		opsapi.WithConfiguration(configuration), opsapi.WithRoutesAt("smartProxyConfig", "routes"),
//	)
//	if err != nil {
//		return err
//	}
//	opsapi.Handle(s.Methods(), "getWeather", opsapi.RoleViewer, weather) // one of your own
//	if err := s.Start(ctx); err != nil {
//		return err
//	}
//	defer s.Stop(context.Background())
//
// # Methods
//
// A method is registered once ([Handle]) and can be called in two ways: by the
// TypedRequest protocol (POST /typedrequest), and as plain JSON (POST
// /api/v1/{method}). GET /api/v1/openapi.json describes all of them. Requests
// are read strictly; mistakes come with the path of their field.
//
// Beside them there are GET /api/v1/events (Server-Sent Events), /healthz,
// /readyz, /metrics, and the files of the dashboard.
//
// # Who may do what
//
// Users sign in with a password, of which the storage has an argon2id hash (RFC
// 9106), as the configuration may have. They get a token (RFC 7519, Ed25519) of 15
// minutes: as an answer, or for browsers in a cookie that script cannot read, which
// is Secure but for browsers on this machine that come without TLS. A token is void
// when its session ends, by signing out, after 12 hours, or when the password
// changes. Ten failures lock an account and an address for 15 minutes. Roles are
// [RoleViewer], [RoleOperator] and [RoleAdmin].
//
// The API is for its own machine unless [Config.ListenHost] says otherwise, and
// then it wants TLS: [WithTLSConfig], or a proxy in front.
//
// # Changes
//
// Each change of the configuration is a version, with its author and what
// differs. It can be bound to the version that its author saw (ifMatch), and it
// can take itself back unless it is confirmed in time, for changes that may cut
// off whoever makes them. Once something was changed through the API, what was in
// force when the host stopped is in force after the next start, all of it and whoever
// changed it last, unless that start is with another configuration: then that is in
// force, all of it. Whoever changes something is in the audit log.
package opsapi
