package opsapi

// Role is what a user may do. A greater one may do all that a lesser one may.
type Role int

// Roles, from the least to the greatest.
const (
	// RolePublic is whoever asks, without signing in.
	RolePublic Role = iota
	// RoleViewer sees everything but secrets and the audit log.
	RoleViewer
	// RoleOperator also changes routes, mail, DNS records and sessions.
	RoleOperator
	// RoleAdmin also changes the configuration and sees the audit log.
	RoleAdmin
)

// String returns the name of the role, as in the configuration.
func (r Role) String() string {
	switch r {
	case RoleViewer:
		return "viewer"
	case RoleOperator:
		return "operator"
	case RoleAdmin:
		return "admin"
	}
	return "public"
}

// MarshalText writes the name of the role.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// parseRole knows the names of roles that users may have.
func parseRole(name string) (Role, bool) {
	for _, r := range []Role{RoleViewer, RoleOperator, RoleAdmin} {
		if r.String() == name {
			return r, true
		}
	}
	return RolePublic, false
}
