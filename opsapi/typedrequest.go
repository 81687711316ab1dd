package opsapi

import (
	"encoding/json"
	"errors"
	"net/http"
)

// envelope is a TypedRequest, as it comes and goes. What was asked does not go
// back with the answer: there may be a password in it.
type envelope struct {
	Method      string          `json:"method"`
	Request     json.RawMessage `json:"request"`
	Response    any             `json:"response"`
	Error       *wireError      `json:"error,omitempty"`
	Retry       *wireRetry      `json:"retry,omitempty"`
	Correlation *correlation    `json:"correlation,omitempty"`
}

// wireRetry asks the client to come again.
type wireRetry struct {
	WaitForMs int64  `json:"waitForMs"`
	Reason    string `json:"reason"`
}

// correlation is how clients tell which answer is for what.
type correlation struct {
	ID    string `json:"id"`
	Phase string `json:"phase"`
}

// readEnvelope reads a TypedRequest. Older clients say data for request.
func readEnvelope(body []byte) (e envelope, token string, err error) {
	var in struct {
		Method      string          `json:"method"`
		Request     json.RawMessage `json:"request"`
		Data        json.RawMessage `json:"data"`
		Correlation *correlation    `json:"correlation"`
		AuthInfo    json.RawMessage `json:"authInfo"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return e, "", &FieldError{Msg: "this is no TypedRequest: " + err.Error()}
	}
	e = envelope{Method: in.Method, Request: in.Request, Correlation: in.Correlation}
	if text := string(in.Request); text == "" || text == "null" {
		e.Request = in.Data
	}
	if token = tokenIn(e.Request); token == "" {
		token = tokenIn(body)
	}
	return e, token, nil
}

// typedRequest serves the TypedRequest protocol. The status is 200 whatever
// happens: clients of this protocol throw the error away with any other.
func (s *Server) typedRequest(w http.ResponseWriter, r *http.Request) {
	var e envelope
	var token string
	body, done, err := s.readBody(w, r)
	defer done()
	if err == nil {
		e, token, err = readEnvelope(body)
	}
	if err == nil {
		e.Response, err = s.invoke(r.Context(), s.identify(w, r, token), e.Method, e.Request)
	}
	writeJSON(w, http.StatusOK, e.answer(err))
}

// answer writes the envelope with the response that is in it, or with err.
func (e envelope) answer(err error) []byte {
	e.Request = nil
	if e.Correlation != nil {
		e.Correlation.Phase = "response"
	}
	data, failure := json.RawMessage(nil), err
	if failure == nil {
		data, failure = marshal(e)
	}
	if failure == nil {
		return data
	}
	e.Response = nil
	var retry *RetryError
	if errors.As(failure, &retry) {
		e.Retry = &wireRetry{max(1, retry.After.Milliseconds()), retry.Reason}
	} else {
		known := clientError(failure)
		e.Error = &wireError{known.Text, known.data()}
	}
	if data, err = marshal(e); err != nil { // a host's Data that is no JSON
		e.Error.Data = map[string]any{"code": CodeFailed}
		data, _ = marshal(e)
	}
	return data
}
