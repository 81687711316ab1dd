package smtpd

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	"github.com/emersion/go-sasl"
)

// mechanisms are those that the session has, given TLS.
func (g *guard) mechanisms() []string {
	if g.conn.tls == nil {
		return nil
	}
	return g.session.AuthMechanisms()
}

// auth vets AUTH (RFC 4954).
func (g *guard) auth(arg string) []byte {
	mechanism, initial, hasInitial := strings.Cut(arg, " ")
	mechanism = strings.ToUpper(mechanism)
	switch {
	case mechanism == "" || strings.Trim(mechanism, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "":
		g.send(newReply(501, 5, 5, 4, "AUTH needs a mechanism"))
	case len(g.session.AuthMechanisms()) == 0:
		g.send(newReply(502, 5, 5, 1, "AUTH is not available"))
	case g.conn.tls == nil:
		g.send(newReply(538, 5, 7, 11, "AUTH needs TLS"))
	case g.tx.begun:
		g.send(newReply(503, 5, 5, 1, "AUTH is not possible within a transaction"))
	case hasInitial && initial != "=" && !isBase64(initial):
		g.send(newReply(501, 5, 5, 2, "Invalid base64"))
	case hasInitial:
		return g.pass("AUTH "+mechanism+" "+initial+"\r\n", newReply(235, 2, 7, 0, "Welcome"))
	default:
		return g.pass("AUTH "+mechanism+"\r\n", newReply(235, 2, 7, 0, "Welcome"))
	}
	return nil
}

// vetResponse looks at what a client answers to a challenge.
func (g *guard) vetResponse(text []byte, ok bool) []byte {
	okay := newReply(235, 2, 7, 0, "Welcome")
	switch {
	case string(text) == "*" && ok:
		g.stage.reply = newReply(501, 5, 7, 0, "Authentication cancelled")
	case !ok || !isBase64(string(text)):
		g.stage.reply = newReply(501, 5, 5, 2, "Invalid base64")
	default:
		return g.pass(string(text)+"\r\n", okay)
	}
	return []byte("*\r\n") // for go-smtp to leave the dialogue
}

func isBase64(s string) bool {
	_, err := base64.StdEncoding.DecodeString(s)
	return err == nil
}

// authenticate begins an exchange with the session.
func (g *guard) authenticate(mechanism string) (server sasl.Server, refusal *Reply) {
	if !slices.Contains(g.mechanisms(), mechanism) {
		return nil, newReply(504, 5, 5, 4, "This mechanism is not available")
	}
	err := g.call("Authenticate", func() (err error) {
		server, err = g.session.Authenticate(g.ctx, mechanism)
		return err
	})
	if err != nil {
		return nil, g.authFailed(err)
	}
	return server, nil
}

func (g *guard) authFailed(err error) *Reply {
	return g.replyTo(err, "AUTH", 535, [3]int{5, 7, 8}, "Authentication failed")
}

// exchange is a SASL exchange as go-smtp sees it.
type exchange struct {
	session *machineSession
	server  sasl.Server
	rounds  int
	done    bool // but for the client's word on the last challenge
}

const maxRounds = 16

func (e *exchange) Next(response []byte) (challenge []byte, done bool, err error) {
	g := e.session.g
	if e.rounds++; e.rounds > maxRounds {
		return nil, false, e.session.refuse(g.authFailed(errors.New("the exchange does not end")))
	}
	if !e.done {
		err = g.call("AUTH", func() (err error) {
			challenge, e.done, err = e.server.Next(response)
			return err
		})
		if err != nil {
			return nil, false, e.session.refuse(g.authFailed(err))
		}
		if !e.done || len(challenge) > 0 {
			// There is no place for data in a 235 (RFC 4954 section 4), so the
			// last challenge gets an empty response.
			return challenge, false, nil
		}
	}
	g.conn.authenticated = true
	return nil, true, nil
}
