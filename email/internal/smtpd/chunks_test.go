package smtpd

import (
	"strings"
	"testing"
)

func TestChunks(t *testing.T) {
	tests := []struct{ name, script, want string }{
		{"one", `
			C> "BDAT 7 LAST\r\nhello\r\n"
			S: 250 2.0.0 queued`, "hello\r\n"},
		{"several, in one go", `
			C> "BDAT 2\r\nheBDAT 3\r\nlloBDAT 2 LAST\r\n\r\n"
			S: 250 2.0.0 2 bytes
			S: 250 2.0.0 5 bytes
			S: 250 2.0.0 queued`, "hello\r\n"},
		{"several, one by one", `
			C> "BDAT 6\r\nhello\r"
			S: 250
			C> "bdat 1\r\n\n"
			S: 250
			C> "BDAT 0 last\r\n"
			S: 250 2.0.0 queued`, "hello\r\n"},
		{"no dots are taken away", `
			C> "BDAT 8 LAST\r\n..\r\n.\r\n."
			S: 250 2.0.0 queued`, "..\r\n.\r\n."},
		{"empty", `
			C> "BDAT 0 LAST\r\n"
			S: 250 2.0.0 queued`, ""},
		{"harmless commands between", `
			C> "BDAT 2\r\nheNOOP\r\nVRFY x\r\nMAIL FROM:<x@y.org>\r\nRCPT TO:<x@y.org>\r\nWHAT\r\nDATA\r\n"
			S: 250
			S: 250 2.0.0 Done
			S: 252
			S: 503
			S: 503
			S: 500
			S: 503
			C> "BDAT 2 LAST\r\nllNOOP\r\n"
			S: 250 2.0.0 queued
			S: 250 2.0.0 Done`, "hell"},
		{"a long line between", `
			C> "BDAT 2\r\nhe"
			S: 250
			C: NOOP ` + strings.Repeat("x", 2000) + `
			S: 500 5.5.2
			C> "BDAT 2 LAST\r\nll"
			S: 250 2.0.0 queued`, "hell"},
		{"refused between", `
			C> "BDAT 4\r\nab\r\nEHLO\r\nHELO <x>\r\nEHLO x\nRSET x\r\nRSET\nQUIT x\r\nQUIT\nR\u017fET\r\n"
			S: 250
			S: 501
			S: 501
			S: 500
			S: 501
			S: 500
			S: 501
			S: 500
			S: 500
			C> "BDAT 4 LAST\r\ncd\r\n"
			S: 250 2.0.0 queued`, "ab\r\ncd\r\n"},
		{"an endless line between", `
			C> "BDAT 4\r\nab\r\n"
			S: 250
			C: ` + strings.Repeat("x", 150_000) + `
			S: 500 5.5.2
			S.`, "none"},
		{"RSET", `
			C> "BDAT 4\r\nabcdRSET\r\nBDAT 4 LAST\r\nNOOPNOOP\r\n"
			S: 250
			S: 250 2.0.0 Forgotten
			S: 503 5.5.1
			S: 250 2.0.0 Done`, "none"},
		{"EHLO", `
			C> "BDAT 4\r\nabcdEHLO y\r\nMAIL FROM:<a@b.org>\r\n"
			S: 250
			S: 250-
			S: 250 2.1.0`, "none"},
		{"QUIT", `
			C> "BDAT 4\r\nabcdQUIT\r\n"
			S: 250
			S: 221
			S.`, "none"},
		{"malformed", `
			C> "BDAT x\r\nNOOP\r\n"
			S: 501 5.5.4
			S.`, "none"},
		{"negative", `
			C> "BDAT -1\r\nNOOP\r\n"
			S: 501 5.5.4
			S.`, "none"},
		{"huge", `
			C> "BDAT 99999999999999999999\r\nNOOP\r\n"
			S: 501 5.5.4
			S.`, "none"},
		{"too many words", `
			C> "BDAT 1 LAST NOW\r\nNOOP\r\n"
			S: 501 5.5.4
			S.`, "none"},
		{"malformed later", `
			C> "BDAT 1\r\naBDAT\r\nNOOP\r\n"
			S: 250
			S: 501 5.5.4
			S.`, "none"},
		{"HTTP between", `
			C> "BDAT 1\r\naGET / HTTP/1.1\r\nNOOP\r\n"
			S: 250
			S: 500
			S.`, "none"},
		{"without recipients", `
			C: RSET
			S: 250
			C> "BDAT 4\r\nNOOPBDAT 4 LAST\r\nNOOPNOOP\r\n"
			S: 503 5.5.1
			S: 503 5.5.1
			S: 250 2.0.0 Done`, "none"},
		{"NUL", `
			C> "BDAT 4 LAST\r\na\x00\r\nNOOP\r\n"
			S: 550 5.6.0
			S: 250 2.0.0 Done`, "none"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := &host{}
			c := dial(t, serve(t, h, Mode{}))
			c.want("220")
			begin(c)
			c.script(test.script)
			got := strings.Join(h.accepted(), "|")
			if len(h.accepted()) == 0 {
				got = "none"
			}
			if got != test.want {
				t.Errorf("accepted %q, want %q", got, test.want)
			}
		})
	}
}
