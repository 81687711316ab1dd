package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds what an endpoint may ask for.
const maxRetryAfter = time.Hour

// result is what came of a request.
type result struct {
	err        error
	gone       bool          // 410
	retryAfter time.Duration // as it asks for
}

func (e *endpoint) post(ctx context.Context, it *item) result {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(it.Payload))
	if err != nil {
		return result{err: withoutURL(err)}
	}
	timestamp := strconv.FormatInt(e.cfg.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "dcrouter")
	req.Header.Set("Webhook-Id", it.ID)
	req.Header.Set("Webhook-Timestamp", timestamp)
	req.Header.Set("Webhook-Signature", sign(e.keys, it.ID, timestamp, it.Payload))
	if user := req.URL.User; user != nil {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	// Without http.Client: it follows redirections, and puts the URL into errors.
	resp, err := e.cfg.Transport.RoundTrip(req)
	if err != nil {
		return result{err: withoutURL(err)}
	}
	defer drain(resp.Body)
	if resp.StatusCode/100 == 2 {
		return result{}
	}
	res := result{err: fmt.Errorf("the answer was %.100q", resp.Status), gone: resp.StatusCode == http.StatusGone}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		if seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil {
			res.retryAfter = min(maxRetryAfter, time.Duration(seconds)*time.Second)
		}
	}
	return res
}

// sign makes the signatures, one by each key.
func sign(keys [][]byte, id, timestamp string, payload []byte) string {
	list := make([]string, len(keys))
	for i, key := range keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + timestamp + "."))
		mac.Write(payload)
		list[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return strings.Join(list, " ")
}

// withoutURL takes the URL out of an error, as there may be a secret in it.
func withoutURL(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}
