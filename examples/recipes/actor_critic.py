"""Advantage actor-critic with one trunk: the policy's and the value's losses are two tasks.

Walkers on a line of nine places get 1 when they reach the right end, and -0.05 a step until then.
"""

import torch
from torch import Tensor, nn

from gradsurgery import PCGrad

PLACES, WALKERS, HORIZON, UPDATES, DISCOUNT = 9, 32, 16, 60, 0.95


def rollout(model: nn.ModuleDict) -> tuple[dict[str, Tensor], float]:
    """Plays one episode a walker; returns the losses of actor and critic, and the mean return."""
    place, alive, steps = torch.randint(PLACES - 1, (WALKERS,)), torch.ones(WALKERS), []
    for _ in range(HORIZON):
        hidden = model["trunk"](nn.functional.one_hot(place, PLACES).float())
        policy = torch.distributions.Categorical(logits=model["actor"](hidden))
        action = policy.sample()
        place = (place + 2 * action - 1).clamp(0, PLACES - 1)
        reward = alive * torch.where(place == PLACES - 1, 1.0, -0.05)
        steps.append((alive, policy.log_prob(action), model["critic"](hidden).squeeze(1), reward))
        alive = alive * (place != PLACES - 1)
    returns, actor, critic = torch.zeros(WALKERS), torch.zeros(()), torch.zeros(())
    for was_alive, log_probability, value, reward in reversed(steps):
        returns = reward + DISCOUNT * returns
        advantage = returns - value
        actor = actor - (was_alive * log_probability * advantage.detach()).mean()
        critic = critic + (was_alive * advantage.square()).mean()
    total = torch.stack([reward for *_, reward in steps]).sum(0).mean()
    return {"actor": actor / HORIZON, "critic": critic / HORIZON}, total.item()


def train(*, surgery: bool) -> tuple[float, torch.optim.Optimizer]:
    """Trains from one seed and returns the mean return of the last ten updates, and the optimizer."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(PLACES, 32), nn.Tanh())
    model = nn.ModuleDict({"trunk": trunk, "actor": nn.Linear(32, 2), "critic": nn.Linear(32, 1)})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    if surgery:
        optimizer = PCGrad(optimizer)
    totals = []
    for _ in range(UPDATES):
        losses, total = rollout(model)
        totals.append(total)
        optimizer.zero_grad()
        optimizer.backward(losses) if surgery else sum(losses.values()).backward()
        optimizer.step()
    return sum(totals[-10:]) / 10, optimizer


if __name__ == "__main__":
    before, _ = train(surgery=False)
    after, optimizer = train(surgery=True)
    print("before, summed loss:", {"mean return": round(before, 3)})
    print("after, PCGrad:      ", {"mean return": round(after, 3)})
    print(optimizer.conflicts)
