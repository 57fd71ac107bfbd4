"""The verb `finetune`: a pretrained backbone, a data set and a strategy become a run folder."""
