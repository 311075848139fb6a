package workflows

import (
	"encoding/json"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
)

// Evaluate measures a policy on held-out problems: pass@1, pass@k (unbiased),
// cons@k and greedy. given is a JSON object with the keys of a Plan; "policy"
// is required.
func Evaluate(ctx workflow.Context, given json.RawMessage) (*activities.Evaluation, error) {
	e := &experiment{}
	e.id.ID = workflow.GetInfo(ctx).WorkflowExecution.ID
	if err := e.brief(ctx, &e.Resolved, acts.Resolve, given); err != nil {
		return nil, err
	}
	if e.plan().Policy == "" {
		return nil, temporal.NewNonRetryableApplicationError("policy is missing: name the policy to evaluate by its Ref", activities.ErrorInvalid, nil)
	}
	e.id.Plan = e.Resolved.Ref
	e.Status.Recipe = e.plan().Recipe
	var out activities.Output
	if err := e.do(ctx, QueueCPU, acts.Prepare, e.id, &out); err != nil {
		return nil, err
	}
	e.Setup, e.Policy = out.Tables, out.Tables[activities.TablePolicy]
	return e.evaluate(ctx, activities.TableTest, "test", 0, true)
}
