package opsapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/dcrouter/dcrouter/opsapi"
)

// A program that has only counters, and a method of its own.
func Example() {
	ctx := context.Background()
	config := opsapi.Config{
		Port:  new(int), // any free one
		Admin: opsapi.Admin{Username: "admin", Password: "correct horse battery staple"},
	}
	s, err := opsapi.New(config, opsapi.WithStats(func() any { return map[string]int{"requests": 7} }))
	if err != nil {
		fmt.Println(err)
		return
	}
	type request struct {
		Name string `json:"name"`
	}
	type response struct {
		Text string `json:"text"`
	}
	opsapi.Handle(s.Methods(), "greet", opsapi.RoleViewer, func(ctx context.Context, r request) (response, error) {
		who, _ := opsapi.IdentityFrom(ctx)
		return response{fmt.Sprintf("%s greets %s", who.Name, r.Name)}, nil
	})
	if err := s.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer s.Stop(ctx)

	var token string
	call := func(method, body string) []byte {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.Addr().String()+"/api/v1/"+method, bytes.NewBufferString(body))
		if err != nil {
			return nil
		}
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return nil
		}
		defer resp.Body.Close()
		answer, _ := io.ReadAll(resp.Body)
		return answer
	}
	var in struct {
		Identity struct{ JWT string }
	}
	if err := json.Unmarshal(call("adminLoginWithUsernameAndPassword", `{"username":"admin","password":"correct horse battery staple"}`), &in); err != nil {
		fmt.Println(err)
		return
	}
	token = in.Identity.JWT
	fmt.Printf("%s\n", call("greet", `{"name":"the world"}`))
	fmt.Printf("%s\n", call("greet", `{"nmae":"the world"}`))
	// Output:
	// {"text":"admin greets the world"}
	// {"error":{"text":"nmae: unknown field, did you mean \"name\"?","data":{"code":"invalid","fields":[{"path":"nmae","message":"unknown field, did you mean \"name\"?"}]}}}
}

// A program that has a web server serves the API with it, and its log is
// looked up there.
func ExampleServer_Handler() {
	ctx := context.Background()
	logs := opsapi.NewLogBuffer(slog.DiscardHandler)
	s, err := opsapi.New(
		opsapi.Config{Port: new(int), Admin: opsapi.Admin{Username: "admin", Password: "correct horse battery staple"}},
		opsapi.WithLogs(logs),
		opsapi.WithHealth(func(context.Context) []opsapi.Component { return []opsapi.Component{{Name: "worker", Ready: true}} }),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := s.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer s.Stop(ctx)
	mux := http.NewServeMux() // the program's own
	mux.Handle("/", s.Handler())

	answer := httptest.NewRecorder()
	mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	fmt.Println(answer.Code, answer.Body)
	answer = httptest.NewRecorder()
	mux.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/api/v1/getLogs", bytes.NewBufferString("{}")))
	fmt.Println(answer.Code, answer.Body) // nobody has signed in
	// Output:
	// 200 {"ready":true,"components":{"worker":true}}
	// 401 {"error":{"text":"sign in first","data":{"code":"unauthenticated"}}}
}
