package farm

import (
	"fmt"
	"regexp"
	"time"

	"github.com/opencontainers/go-digest"
)

// Usage says when a version was last used, for people and for retention. It is written now and then, not with each use:
// what it says may be UsageGrain old. Times only grow.
type Usage struct {
	Schema     int       `json:"schema"`
	Name       string    `json:"name"`
	Version    string    `json:"version"`
	PulledAt   time.Time `json:"pulledAt,omitzero"`   // a manifest or disk of it was downloaded
	ResolvedAt time.Time `json:"resolvedAt,omitzero"` // a channel led to it
	DeployedAt time.Time `json:"deployedAt,omitzero"` // somebody reported to run it
}

// UsageGrain is how much newer a use must be than the recorded one to be written.
const UsageGrain = time.Minute

// Deployment is a user's report that an instance runs an image, until the lease ends: it keeps the image from expiring.
type Deployment struct {
	Schema    int           `json:"schema"`
	ID        string        `json:"id"` // of the user's making: i-1
	Name      string        `json:"name"`
	Version   string        `json:"version"`
	Digest    digest.Digest `json:"digest"` // of the image that the report meant
	Note      string        `json:"note,omitempty"`
	By        string        `json:"by,omitempty"`
	StartedAt time.Time     `json:"startedAt"` // the first report of this image by this ID
	SeenAt    time.Time     `json:"seenAt"`    // the latest
	Until     time.Time     `json:"until"`     // the lease: without another report the instance is taken to be gone
}

// Live reports whether the instance is taken to run.
func (d Deployment) Live(now time.Time) bool { return now.Before(d.Until) }

// Bounds of deployments.
const (
	MaxLease = 366 * 24 * time.Hour
	MaxNote  = 1024 // bytes
)

var deploymentID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._:/-]{0,127}$`)

// ValidateDeployment checks a deployment's ID.
func ValidateDeployment(id string) error {
	if !deploymentID.MatchString(id) {
		return fmt.Errorf("deployment %q: want 1 to 128 letters, digits and . _ : / -, beginning with a letter or digit", id)
	}
	return nil
}
