package proxy

import (
	"net/http"
	"strings"
)

// redirect answers with a new location.
func redirect(to RedirectTo) http.Handler {
	status := defaultTo(to.Status, http.StatusPermanentRedirect)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		x := exchangeFrom(req.Context())
		if x.canonical == "" && strings.Contains(to.To, "{host}") {
			http.Error(w, "Bad Request: no Host to redirect to", http.StatusBadRequest)
			return
		}
		location := expand(to.To, func(name string) string {
			host, port := hostPort(x.conn, req.Host)
			switch name {
			case "scheme":
				return x.scheme()
			case "host":
				return host
			case "port":
				return port
			case "uri":
				if x.hasQuery {
					return x.path + "?" + x.query
				}
				return x.path
			case "path":
				return x.path
			default:
				return x.query
			}
		})
		// A client that chose a path like //evil.example must not choose the
		// host it is sent to. Browsers take a backslash for a slash.
		location = strings.ReplaceAll(location, `\`, "%5C")
		if strings.HasPrefix(location, "//") && !strings.HasPrefix(to.To, "//") {
			location = "/" + strings.TrimLeft(location, "/")
		}
		w.Header().Set("Location", location)
		w.WriteHeader(status)
	})
}
