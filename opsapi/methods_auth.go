package opsapi

import (
	"context"
	"errors"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// nothing is an answer without contents.
type nothing struct{}

// loginRequest is of adminLoginWithUsernameAndPassword.
type loginRequest struct {
	Username string      `json:"username"`
	Password conf.Secret `json:"password"`
	// Cookie is for browsers: script cannot read the token then.
	Cookie bool `json:"cookie,omitempty" doc:"put the token into a cookie instead of the answer"`
}

// identityResponse has who has signed in.
type identityResponse struct {
	Identity Identity `json:"identity"`
}

// verifyResponse is of verifyIdentity.
type verifyResponse struct {
	Valid    bool      `json:"valid"`
	Identity *Identity `json:"identity,omitempty"`
}

// logoutRequest is of adminLogout.
type logoutRequest struct {
	Everywhere bool `json:"everywhere,omitempty" doc:"end all sessions of the user, not this one alone"`
}

func (s *Server) registerAuth() {
	m := &s.methods
	Handle(m, "adminLoginWithUsernameAndPassword", RolePublic, s.login,
		Doc("Signs in. A token lasts 15 minutes (refreshIdentity gives the next), a session 12 hours. Ten failures within 15 minutes lock the account and the address for 15 minutes."))
	Handle(m, "adminLogout", RoleViewer, s.logout, Doc("Ends the session: its tokens are void at once."))
	Handle(m, "verifyIdentity", RolePublic, s.verify, Doc("Tells whether the token that comes with the request is good."))
	Handle(m, "refreshIdentity", RoleViewer, s.refresh, Doc("Gives a new token of the same session."))
}

func (s *Server) login(ctx context.Context, req loginRequest) (identityResponse, error) {
	r, c := s.running(), callerFrom(ctx)
	if err := required([2]string{"username", req.Username}, [2]string{"password", req.Password.Reveal()}); err != nil {
		return identityResponse{}, err
	}
	if len(req.Username) > maxUsername {
		return identityResponse{}, errorf(CodeUnauthenticated, "wrong username or password")
	}
	a, err := r.gate.signIn(ctx, req.Username, req.Password.Reveal(), c.address)
	if err != nil {
		s.failedLogin(ctx, c, req.Username, err)
		return identityResponse{}, err
	}
	one, err := r.sessions.begin(ctx, a)
	if err != nil {
		return identityResponse{}, err
	}
	c.session, c.byCookie = one, req.Cookie
	identity, err := s.issue(c, a)
	if err != nil {
		return identityResponse{}, err
	}
	c.identity = &identity
	s.record(ctx, c, "adminLoginWithUsernameAndPassword", nil)
	s.reportOwn(SecurityEvent{Kind: "login", Severity: SeverityInfo, Address: c.address, Subject: a.name, Message: "signed in"})
	return identityResponse{identity}, nil
}

// failedLogin reports what strangers can do as often as they like. So it does
// not go into the audit log, but for the one time that it locks an account that
// there is.
func (s *Server) failedLogin(ctx context.Context, c *caller, name string, err error) {
	if r := s.running(); r.gate.locksAddress(c.address) {
		r.crowd.full(holder(c.address))
	}
	var known *Error
	if !errors.As(err, &known) || known.Code == CodeLocked { // that it was locked has been said
		return
	}
	r := s.running()
	e := SecurityEvent{Kind: "login_failed", Address: c.address, Subject: name, Message: known.Text}
	if r.gate.locks(name, c.address) {
		e.Kind, e.Severity, e.Message = "login_locked", SeverityCritical, "locked after too many failed attempts to sign in"
		if a := r.gate.accounts[name]; a != nil {
			c.detail = "locked for " + a.name
			s.record(ctx, c, "adminLoginWithUsernameAndPassword", err)
		}
	}
	s.reportOwn(e)
	s.log.Warn("somebody failed to sign in", "user", bounded(name), "remote", c.address.String(), "reason", known.Text)
}

// issue makes a token for the caller's session and hands it out the way that he
// wants.
func (s *Server) issue(c *caller, a *account) (Identity, error) {
	text, expires, err := s.running().sessions.sign(c.session)
	if err != nil {
		return Identity{}, err
	}
	identity := Identity{UserID: a.name, Name: a.name, Role: a.role, ExpiresAt: expires.UnixMilli()}
	if c.byCookie {
		c.setCookie(text, expires.Sub(s.now())+time.Second)
		return identity, nil
	}
	identity.JWT = text
	return identity, nil
}

func (s *Server) logout(ctx context.Context, req logoutRequest) (nothing, error) {
	r, c := s.running(), callerFrom(ctx)
	if c.byCookie {
		c.setCookie("", 0)
	}
	s.record(ctx, c, "adminLogout", nil)
	s.reportOwn(SecurityEvent{Kind: "logout", Severity: SeverityInfo, Address: c.address, Subject: c.name(), Message: "signed out"})
	if req.Everywhere {
		return nothing{}, r.sessions.endAll(ctx, r.gate.accounts[c.identity.UserID])
	}
	return nothing{}, r.sessions.end(ctx, c.session)
}

func (s *Server) verify(ctx context.Context, _ struct{}) (verifyResponse, error) {
	c := callerFrom(ctx)
	return verifyResponse{Valid: c.identity != nil, Identity: c.identity}, nil
}

func (s *Server) refresh(ctx context.Context, _ struct{}) (identityResponse, error) {
	c := callerFrom(ctx)
	identity, err := s.issue(c, s.running().gate.accounts[c.identity.UserID])
	return identityResponse{identity}, err
}

// register adds all methods.
func (s *Server) register() {
	s.registerAuth()
	s.registerSystem()
	s.registerConfiguration()
	s.registerRoutes()
	s.registerMail()
	s.registerNetwork()
	s.registerBlocks()
}
