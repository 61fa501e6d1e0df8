"""Encode a `Mesh` as USDZ, the format of augmented reality on phones: a package of a USD scene and its texture.

Requires usd-core, the extra `usd`.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dreamfusion.types import Mesh

NAME = "dreamfusion"


def usdz(
    mesh: Mesh,
    colors: np.ndarray | None,
    texture: bytes | None,
    comment: str,
    roughness: float,
    double_sided: bool,
    unlit: bool = False,
    up: str = "y",
) -> bytes:
    """The bytes of the file, in metres, with a UsdPreviewSurface.

    Args:
        mesh: vertices, faces, and optionally normals and uv.
        colors: (V, 3) float32 linear light, or None.
        texture: a PNG file, or None.
        comment: text for the metadata of the scene.
        roughness: of the surface, 0 to 1.
        double_sided: draw the inside of the surface too.
        unlit: the colours include the light: they shine.
        up: the axis that points up in `mesh`, y or z; the file says so, and readers turn it.

    Raises:
        ImportError: usd-core is not installed; the message names the install command.
    """
    try:
        from pxr import Sdf, Usd, UsdGeom, UsdShade, UsdUtils, Vt
    except ImportError as error:
        raise ImportError("usdz needs usd-core; type pip install 'dreamfusion[usd]', or export=glb") from error
    # usd-core still maps its file at the end, which Windows does not remove then.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        layer = str(Path(folder) / f"{NAME}.usdc")
        stage = Usd.Stage.CreateNew(layer)
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z if up == "z" else UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        stage.SetMetadata("comment", comment)
        root = UsdGeom.Xform.Define(stage, f"/{NAME}")
        stage.SetDefaultPrim(root.GetPrim())
        shape = UsdGeom.Mesh.Define(stage, f"/{NAME}/mesh")
        shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(mesh.vertices, np.float32)))
        shape.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
        shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(mesh.faces.astype(np.int32).reshape(-1)))
        shape.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack([mesh.vertices.min(0), mesh.vertices.max(0)])))
        shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
        shape.CreateDoubleSidedAttr(double_sided)
        if mesh.normals is not None:
            shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(mesh.normals, np.float32)))
            shape.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
        primvars = UsdGeom.PrimvarsAPI(shape)
        if colors is not None:
            kind = Sdf.ValueTypeNames.Color3fArray
            primvars.CreatePrimvar("displayColor", kind, UsdGeom.Tokens.vertex).Set(Vt.Vec3fArray.FromNumpy(colors))
        if mesh.uv is not None:
            kind = Sdf.ValueTypeNames.TexCoord2fArray
            uv = Vt.Vec2fArray.FromNumpy(np.ascontiguousarray(mesh.uv, np.float32))
            primvars.CreatePrimvar("st", kind, UsdGeom.Tokens.vertex).Set(uv)
        if texture is not None:
            (Path(folder) / "texture.png").write_bytes(texture)
        material = UsdShade.Material.Define(stage, f"/{NAME}/material")
        image = "texture.png" if texture is not None else None
        _surface(stage, material, image, colors is not None, roughness, unlit)
        UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(material)
        stage.GetRootLayer().Save()
        package = Path(folder) / f"{NAME}.usdz"
        if not UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(layer), str(package)):
            raise RuntimeError("usd-core failed to create the USDZ package")
        return package.read_bytes()


def _surface(
    stage: Any, material: Any, texture: str | None, vertex_colors: bool, roughness: float, unlit: bool
) -> None:
    """Define a UsdPreviewSurface coloured by the texture, by vertex colours, or white; an unlit one shines."""
    from pxr import Sdf, UsdShade

    def shader(name: str, kind: str) -> Any:
        made = UsdShade.Shader.Define(stage, f"/{NAME}/material/{name}")
        made.CreateIdAttr(kind)
        return made

    types = Sdf.ValueTypeNames
    surface = shader("surface", "UsdPreviewSurface")
    surface.CreateInput("roughness", types.Float).Set(roughness)
    surface.CreateInput("metallic", types.Float).Set(0.0)
    color = surface.CreateInput("emissiveColor" if unlit else "diffuseColor", types.Color3f)
    if unlit:
        surface.CreateInput("diffuseColor", types.Color3f).Set((0.0, 0.0, 0.0))
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    if texture is not None:
        reader = shader("uv", "UsdPrimvarReader_float2")
        reader.CreateInput("varname", types.String).Set("st")
        image = shader("texture", "UsdUVTexture")
        image.CreateInput("file", types.Asset).Set(texture)
        for side in ("wrapS", "wrapT"):  # else black around the texture
            image.CreateInput(side, types.Token).Set("clamp")
        image.CreateInput("sourceColorSpace", types.Token).Set("sRGB")
        reader.CreateOutput("result", types.Float2)
        image.CreateInput("st", types.Float2).ConnectToSource(reader.ConnectableAPI(), "result")
        image.CreateOutput("rgb", types.Float3)
        color.ConnectToSource(image.ConnectableAPI(), "rgb")
    elif vertex_colors:
        reader = shader("color", "UsdPrimvarReader_float3")
        reader.CreateInput("varname", types.String).Set("displayColor")
        reader.CreateOutput("result", types.Float3)
        color.ConnectToSource(reader.ConnectableAPI(), "result")
    else:
        color.Set((1.0, 1.0, 1.0))
