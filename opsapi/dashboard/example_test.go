package dashboard_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/opsapi/dashboard"
)

// The files are for package opsapi, which serves them beside its methods. A
// Router does this by itself.
func ExampleFiles() {
	s, err := opsapi.New(
		opsapi.Config{Port: new(int), Admin: opsapi.Admin{Username: "admin", Password: "correct horse battery staple"}},
		opsapi.WithDashboard(dashboard.Files()),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	if err := s.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer s.Stop(ctx)

	answer := httptest.NewRecorder()
	s.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/", nil))
	_, title, _ := strings.Cut(answer.Body.String(), "<title>")
	title, _, _ = strings.Cut(title, "</title>")
	fmt.Println(answer.Code, answer.Header().Get("Content-Type"), title)
	// Output: 200 text/html; charset=utf-8 dcrouter
}
