package api_test

import (
	"testing"
	"time"

	"bakefarm/api"
	"bakefarm/api/client"
	"bakefarm/api/usage"
	"bakefarm/farm"
)

func TestDeployments(t *testing.T) {
	var uses *usage.Recorder
	s := serve(t, func(c *api.Config) {
		uses = usage.New(c.Bus.Usage, c.Log)
		c.Uses = uses
	})
	v := s.Image(t, "shop/checkout")
	s.Channel(t, "shop/checkout", "prod", v.Version)
	put := func(id string, r api.DeploymentRequest) (api.Deployment, error) {
		return s.client.PutDeployment(t.Context(), id, r)
	}

	first, err := put("aws:eu/i-1", api.DeploymentRequest{Image: "shop/checkout:prod", Note: "rack 7", By: "anna"})
	if err != nil || first.Version != v.Version || first.Digest != v.Images[0].Digest || !first.Running || first.Note != "rack 7" {
		t.Fatalf("%+v, %v", first, err)
	}
	if left := time.Until(first.Until); left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("a lease of %v without being asked", left)
	}
	again, err := put("aws:eu/i-1", api.DeploymentRequest{Image: "shop/checkout@" + string(v.Images[0].Digest), Lease: "2h"})
	if err != nil || !again.StartedAt.Equal(first.StartedAt) || !again.SeenAt.After(first.SeenAt) || time.Until(again.Until) > 2*time.Hour {
		t.Errorf("%+v, %v", again, err)
	}
	got, _, err := s.Bus.Deployments.Get(t.Context(), "aws:eu/i-1")
	if err != nil || got.Name != "shop/checkout" || got.By != "api" {
		t.Errorf("%+v, %v", got, err)
	}
	page, err := s.client.Deployments(t.Context(), client.DeploymentFilter{Name: "shop/*"}, "", 0)
	if err != nil || len(page.Items) != 1 || page.Items[0].ID != "aws:eu/i-1" {
		t.Errorf("%+v, %v", page, err)
	}
	images, err := s.client.Images(t.Context(), client.ImageFilter{Running: true}, client.Order{}, "", 0)
	if err != nil || len(images.Items) != 1 || images.Items[0].Usage.Deployments != 1 {
		t.Errorf("%+v, %v", images, err)
	}

	for _, test := range []struct {
		id     string
		r      api.DeploymentRequest
		status int
	}{
		{"i-2", api.DeploymentRequest{Image: "shop/none"}, 404},
		{"i 2", api.DeploymentRequest{Image: "shop/checkout"}, 422},
		{"i-2", api.DeploymentRequest{Image: "Shop"}, 422},
		{"i-2", api.DeploymentRequest{}, 422},
		{"i-2", api.DeploymentRequest{Image: "shop/checkout", Lease: "1y"}, 422},
		{"i-2", api.DeploymentRequest{Image: "shop/checkout", Lease: "99w"}, 422},
		{"i-2", api.DeploymentRequest{Image: "shop/checkout", Lease: "1h", Until: time.Now().Add(time.Hour)}, 422},
		{"i-2", api.DeploymentRequest{Image: "shop/checkout", Until: time.Now().Add(-time.Hour)}, 422},
	} {
		if _, err := put(test.id, test.r); status(err) != test.status {
			t.Errorf("%s %+v: %v, want %d", test.id, test.r, err, test.status)
		}
	}
	if err := s.client.DeleteDeployment(t.Context(), "aws:eu/i-1"); err != nil {
		t.Error(err)
	}
	if err := s.client.DeleteDeployment(t.Context(), "aws:eu/i-1"); status(err) != 404 {
		t.Error(err)
	}

	// What ended long ago is swept, what ended now is shown.
	now := time.Now()
	for id, until := range map[string]time.Time{"old": now.Add(-30 * 24 * time.Hour), "ended": now.Add(-time.Minute)} {
		if _, err := s.Bus.Deployments.Create(t.Context(), id, farm.Deployment{ID: id, Name: "shop/checkout", Version: v.Version, Until: until}); err != nil {
			t.Fatal(err)
		}
	}
	page, err = s.client.Deployments(t.Context(), client.DeploymentFilter{Ended: true}, "", 0)
	if err != nil || len(page.Items) != 2 || page.Items[0].Running {
		t.Errorf("%+v, %v", page, err)
	}
}

// TestQuestions: what is wrong with a question is said.
func TestQuestions(t *testing.T) {
	s := serve(t)
	s.Image(t, "shop/checkout")
	for path, want := range map[string]int{
		"/v1/images?package=openssl%3C3.0.15&label=a%3Db&label=c": 200, "/v1/images?package=%3C": 422, "/v1/images?createdAfter=yesterday": 422,
		"/v1/images?createdAfter=30d&pulledBefore=2026-01-31": 200, "/v1/images?sort=colour": 422, "/v1/images?name=%5Bz-a%5D": 422,
		"/v1/counts/images?by=kind": 200, "/v1/counts/images?by=colour": 422, "/v1/affected": 422, "/v1/affected?package=a": 200,
		"/v1/images/shop%2Fcheckout/ancestry": 200, "/v1/images/none/ancestry": 404, "/v1/images/shop%2Fcheckout/packages": 404, // the test's Lock is none
		"/v1/diff?from=shop%2Fcheckout": 422, "/v1/diff?from=shop%2Fcheckout&to=none": 404, "/v1/images?state=trash": 200,
	} {
		if a := s.send("GET", path, nil); a.status != want {
			t.Errorf("%s: %d %s, want %d", path, a.status, a.raw, want)
		}
	}
}
