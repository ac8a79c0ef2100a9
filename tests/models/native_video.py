"""transformers' own video model of SAM2 with the weights of ours, for comparison."""

from __future__ import annotations

from transformers import Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2_video.configuration_sam2_video import Sam2VideoMaskDecoderConfig, Sam2VideoPromptEncoderConfig

from plugins.models.sa2va.network import Sa2vaConfig
from plugins.models.sa2va.tracking import Memory

WIDTH, SIDE = 128, 8  # two tokens a pointer; the coarsest features of a 128-pixel picture
SAM21_PARTS = ("temporal_positional_encoding_projection_layer", "occlusion_spatial_embedding_parameter")


def own_video_model(config: Sa2vaConfig, memory: Memory, sam21: bool) -> Sam2VideoModel:
    video = Sam2VideoModel(
        Sam2VideoConfig(
            vision_config=config.sam2.vision_config,
            prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=WIDTH, image_size=config.sam_size),
            mask_decoder_config=Sam2VideoMaskDecoderConfig(hidden_size=WIDTH, mlp_dim=32, iou_head_hidden_dim=16),
            image_size=config.sam_size,
            enable_occlusion_spatial_embedding=sam21,
            enable_temporal_pos_encoding_for_object_pointers=sam21,
            memory_attention_hidden_size=WIDTH,
            memory_attention_num_layers=2,
            memory_attention_feed_forward_hidden_size=32,
            memory_attention_rope_feat_sizes=[SIDE, SIDE],
            memory_encoder_hidden_size=WIDTH,
            mask_downsampler_embed_dim=WIDTH,
            memory_fuser_embed_dim=WIDTH,
            memory_fuser_intermediate_dim=4 * WIDTH,
        )
    ).eval()
    state = {name: tensor for name, tensor in memory.state_dict().items() if sam21 or name.split(".")[0] not in SAM21_PARTS}
    missing, unexpected = video.load_state_dict(state, strict=False)
    assert not unexpected
    own = ("memory_", "object_pointer", "no_object", "mask_downsample", *SAM21_PARTS)
    assert not [name for name in missing if name.startswith(own)]
    return video
