"""Who is in charge of a place where instances run. One at a time: two would end or double each other's instances."""

from dataclasses import dataclass

# Whoever is in charge says so this often; who has been silent for as long as SILENT_S is taken for gone.
RENEW_S, SILENT_S = 10.0, 30.0


@dataclass(frozen=True)
class Claimant:
    """One who would be in charge: this installation, as its database is now, with this entry of the cluster.

    `incarnation` differs for each start of the database's server, so that a copy of the database is another claimant.
    """

    installation: str
    incarnation: str
    cluster: str
    address: str

    @property
    def name(self) -> str:
        return f"{self.installation}.{self.incarnation}.{self.cluster}"


@dataclass(frozen=True)
class Claim:
    """What came of it. `other` is the claimant who is in charge instead, or who would be; `address` is where its console is.

    `is_waiting`: it was us before a restart of the database, as far as can be told; that is known soon.
    """

    in_charge: bool
    other: str = ""
    address: str = ""
    is_waiting: bool = False
    # Whether there is something that says so to others; without the right to it nobody can be told.
    is_told: bool = True


IN_CHARGE = Claim(True)
UNTOLD = Claim(True, is_told=False)
