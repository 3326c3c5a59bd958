"""Half of Tiny ImageNet in ten superclasses, each with many kinds of images."""

import dataclasses
from pathlib import Path

import numpy as np

from bat_jax.data import tiny_imagenet
from bat_jax.data.classes import select
from bat_jax.data.dataset import Dataset, Split
from bat_jax.errors import UserError

SUPERCLASSES: dict[str, tuple[str, ...]] = {
    "carnivores": (
        "n02085620",  # Chihuahua
        "n02094433",  # Yorkshire terrier
        "n02099601",  # golden retriever
        "n02099712",  # Labrador retriever
        "n02106662",  # German shepherd
        "n02113799",  # standard poodle
        "n02123045",  # tabby
        "n02123394",  # Persian cat
        "n02124075",  # Egyptian cat
        "n02125311",  # cougar
    ),
    "other mammals": (
        "n01882714",  # koala
        "n02074367",  # dugong
        "n02364673",  # guinea pig
        "n02395406",  # hog
        "n02403003",  # ox
        "n02410509",  # bison
        "n02415577",  # bighorn
        "n02423022",  # gazelle
        "n02437312",  # Arabian camel
        "n02480495",  # orangutan
    ),
    "other vertebrates": (
        "n01443537",  # goldfish
        "n01629819",  # European fire salamander
        "n01641577",  # bullfrog
        "n01644900",  # tailed frog
        "n01698640",  # American alligator
        "n01742172",  # boa constrictor
        "n01855672",  # goose
        "n02002724",  # black stork
        "n02056570",  # king penguin
        "n02058221",  # albatross
    ),
    "insects": (
        "n02165456",  # ladybug
        "n02190166",  # fly
        "n02206856",  # bee
        "n02226429",  # grasshopper
        "n02231487",  # walking stick
        "n02233338",  # cockroach
        "n02236044",  # mantis
        "n02268443",  # dragonfly
        "n02279972",  # monarch
        "n02281406",  # sulphur butterfly
    ),
    "other invertebrates": (
        "n01768244",  # trilobite
        "n01770393",  # scorpion
        "n01774384",  # black widow
        "n01774750",  # tarantula
        "n01784675",  # centipede
        "n01910747",  # jellyfish
        "n01917289",  # brain coral
        "n01944390",  # snail
        "n01945685",  # slug
        "n01950731",  # sea slug
    ),
    "vehicles": (
        "n02814533",  # beach wagon
        "n02917067",  # bullet train
        "n03100240",  # convertible
        "n03393912",  # freight car
        "n03444034",  # go-kart
        "n03447447",  # gondola
        "n03599486",  # jinrikisha
        "n03662601",  # lifeboat
        "n03670208",  # limousine
        "n03796401",  # moving van
    ),
    "containers": (
        "n02769748",  # backpack
        "n02795169",  # barrel
        "n02808440",  # bathtub
        "n02815834",  # beaker
        "n02823428",  # beer bottle
        "n02909870",  # bucket
        "n03014705",  # chest
        "n03937543",  # pill bottle
        "n03983396",  # pop bottle
        "n04560804",  # water jug
    ),
    "clothing": (
        "n02669723",  # academic gown
        "n02730930",  # apron
        "n02837789",  # bikini
        "n02883205",  # bow tie
        "n02963159",  # cardigan
        "n03404251",  # fur coat
        "n03617480",  # kimono
        "n03763968",  # military uniform
        "n03770439",  # miniskirt
        "n03980874",  # poncho
    ),
    "structures": (
        "n02699494",  # altar
        "n02788148",  # bannister
        "n02791270",  # barbershop
        "n02793495",  # barn
        "n02814860",  # beacon
        "n02843684",  # birdhouse
        "n02927161",  # butcher shop
        "n03042490",  # cliff dwelling
        "n03089624",  # confectionery
        "n03160309",  # dam
    ),
    "food": (
        "n07579787",  # plate
        "n07583066",  # guacamole
        "n07614500",  # ice cream
        "n07615774",  # ice lolly
        "n07695742",  # pretzel
        "n07711569",  # mashed potato
        "n07715103",  # cauliflower
        "n07720875",  # bell pepper
        "n07734744",  # mushroom
        "n07747607",  # orange
    ),
}
"""The WordNet ids of each superclass, by its name."""


def read(path: Path | None) -> Dataset:
    """Reads ten superclasses of Tiny ImageNet: 50,000 training and 5,000 test images, 64x64x3.

    Each superclass has ten classes of Tiny ImageNet, grouped by hand along the nouns of WordNet
    (Miller, Communications of the ACM 38, 1995); of more than ten, the ten of the lowest WordNet
    ids. Ids are those of `tiny_imagenet`.

    Args:
      path: as for `tiny_imagenet`; subsets of its images will do.

    Raises:
      UserError: Tiny ImageNet is missing or damaged, or lacks one of the classes.
    """
    whole = tiny_imagenet.read(path)
    folders = whole.folders or ()
    wnids = [wnid for group in SUPERCLASSES.values() for wnid in group]
    missing = [wnid for wnid in wnids if wnid not in folders]
    if missing:
        raise UserError(
            f"tiny_imagenet_superclasses: wnids.txt lacks {missing[0]}, one of {len(missing)}"
            f" missing classes; expected all {len(wnids)} classes of the superclasses"
        )
    chosen = select(whole, [folders.index(wnid) for wnid in wnids])
    of_class = np.repeat(
        np.arange(len(SUPERCLASSES), dtype=np.int32),
        [len(group) for group in SUPERCLASSES.values()],
    )

    def merged(split: Split) -> Split:
        return dataclasses.replace(split, labels=of_class[split.labels])

    return Dataset(
        "tiny_imagenet_superclasses",
        merged(chosen.train),
        merged(chosen.test),
        class_names=tuple(SUPERCLASSES),
        folders=tuple(SUPERCLASSES.values()),
    )
