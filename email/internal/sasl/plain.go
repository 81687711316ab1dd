package sasl

import (
	"context"
	"strings"
)

// plain is PLAIN (RFC 4616): [authzid] NUL authcid NUL passwd.
func (x *Exchange) plain(ctx context.Context, response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	fields := strings.Split(string(response), "\x00")
	if len(fields) != 3 {
		return nil, true, ErrMalformed
	}
	if err := x.claim(ctx, fields[1]); err != nil {
		return nil, true, err
	}
	// Nobody acts for another one here.
	if fields[0] != "" && fields[0] != fields[1] {
		return nil, true, ErrRejected
	}
	return nil, true, x.verify(ctx, fields[2])
}

// login is LOGIN, which no RFC describes but old programs speak.
type login struct {
	x     *Exchange
	asked bool // for the user name
}

func (l *login) next(ctx context.Context, response []byte) ([]byte, bool, error) {
	switch {
	case l.x.user != "":
		return nil, true, l.x.verify(ctx, string(response))
	case response == nil && !l.asked:
		l.asked = true
		return []byte("Username:"), false, nil
	}
	// Also when it came along with AUTH, as some programs send it.
	if err := l.x.claim(ctx, string(response)); err != nil {
		return nil, true, err
	}
	return []byte("Password:"), false, nil
}
