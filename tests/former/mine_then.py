"A transform of one's own, as a user of 2b28259 had it"
from cf_guidance.project import along
from cf_guidance.schedules import positive
from cf_guidance.transforms import GuidanceTfm, cfg, convert, match_norm

class Softer(GuidanceTfm):
    kinds = along, convert, positive
    def guide(self, u, t, idx):
        from cf_guidance.schedules import Step
        from cf_guidance.transforms import base_norm
        self.pred = cfg(u, match_norm(t, u), self.scheduler('g', idx)/2)
        assert self.kinds and convert and base_norm and Step
