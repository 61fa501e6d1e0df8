import torch

from dreamfusion.scene.background.learned import LearnedBackground

RAYS = torch.nn.functional.normalize(torch.randn(600, 3, generator=torch.Generator().manual_seed(0)), dim=-1)


def learned(random_share=0.0):
    torch.manual_seed(0)
    return LearnedBackground(frequencies=2, hidden=8, layers=2, random_share=random_share)


def test_the_colour_depends_on_the_direction_only_and_has_gradients():
    background = learned()
    colors = background(RAYS, 2, None)
    assert ((colors > 0) & (colors < 1)).all()
    torch.testing.assert_close(background(RAYS.flip(0), 3, None), colors.flip(0))
    colors.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in background.parameters())


def test_without_hidden_layers_the_encoding_gives_the_colour():
    background = LearnedBackground(frequencies=2, hidden=8, layers=0, random_share=0.0)
    assert background(RAYS[:6], 2, None).shape == (6, 3)


def test_the_positional_encoding_begins_at_the_published_octave():
    """The first layer sees the direction, sin(2^0 d), sin(2^1 d), cos(2^0 d), cos(2^1 d)."""
    background, seen = learned(), []
    background.network[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    background(RAYS[:5], 1, None)
    d = RAYS[:5]
    expected = torch.cat([d, d.sin(), (2 * d).sin(), d.cos(), (2 * d).cos()], dim=-1)
    torch.testing.assert_close(seen[0], expected)


def test_the_given_fraction_of_training_views_has_a_solid_colour(seeded):
    background = learned(random_share=0.4)
    plain = background(RAYS, 300, None).view(300, 2, 3)
    drawn = background(RAYS, 300, seeded()).view(300, 2, 3)
    replaced = (drawn != plain).any(dim=-1).any(dim=-1)
    assert abs(replaced.float().mean() - 0.4) < 0.08
    assert torch.equal(drawn[replaced][:, 0], drawn[replaced][:, 1])
