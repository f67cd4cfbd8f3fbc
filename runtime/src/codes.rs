//! The codes of everything that goes wrong while running, with the pages `gatewright explain` prints.

pub use gatewright_grammar::codes::Explanation;
use gatewright_grammar::diagnostic::Code;

/// States each page once: as the documentation of its constant and as data.
macro_rules! pages {
    ($($(#[doc = $line:literal])+ $name:ident = $code:literal, $title:literal;)+) => {
        $($(#[doc = $line])+ pub const $name: Code = Code($code);)+

        /// All pages of this room, by code.
        pub const EXPLANATIONS: &[Explanation] = &[
            $(Explanation { code: $name, title: $title, body: concat!($($line, "\n"),+) },)+
        ];
    };
}

pages! {
    /// What: the file cannot be read.
    ///
    /// Why: the message holds the operating system's reason.
    ///
    /// Example:
    /// ```sh
    /// gatewright check modell.gate
    /// ```
    /// Fix: check the path and the rights; `-` reads standard input.
    UNREADABLE = "E0600", "the file cannot be read";

    /// What: no Vulkan or Metal driver answers on this machine.
    ///
    /// Why: models run as compute shaders, and those need a driver. A graphics card is not needed:
    /// Mesa's software driver runs everything on the processor.
    ///
    /// Example:
    /// ```sh
    /// gatewright doctor
    /// ```
    /// Fix: on Debian or Ubuntu, `apt-get install mesa-vulkan-drivers libvulkan1`; or use
    /// `--device reference`, which is slow and needs no driver.
    NO_ADAPTER = "E0601", "no graphics adapter answers";

    /// What: `--device NAME` matches no adapter of this machine.
    ///
    /// Why: another adapter would give other speeds and slightly other roundings than were asked for.
    ///
    /// Example:
    /// ```sh
    /// gatewright run model.gate --device radeon
    /// ```
    /// Fix: use a part of one of the names in the message, or `--device auto`.
    UNKNOWN_ADAPTER = "E0602", "no adapter has this name";

    /// What: the driver lists the adapter and then refuses to open it.
    ///
    /// Why: usually the device file may not be read by this user, or another process holds the device.
    ///
    /// Example:
    /// ```sh
    /// gatewright doctor --device nvidia
    /// ```
    /// Fix: join the groups `video` and `render`, or choose another adapter.
    ADAPTER_REFUSED = "E0603", "the adapter refuses to open";

    /// What: a tensor or a kernel of the plan needs more than the device offers in one piece.
    ///
    /// Why: a device binds at most a certain number of bytes to a shader and allocates at most a
    /// certain number at once. The message names the tensor, what it needs and the limit.
    ///
    /// Example:
    /// ```sh
    /// gatewright train model.gate --set batch=65536
    /// ```
    /// Fix: make the tensor smaller (a smaller batch, more `accumulate`), compile for this device
    /// instead of loading a plan made for another one, or choose a device with higher limits.
    LIMIT_EXCEEDED = "E0604", "more than the device can bind or allocate at once";

    /// What: the driver or the shader checker refuses a compute shader of the plan.
    ///
    /// Why: shaders are generated, so this is a mistake of the compiler or of a plan edited by hand,
    /// or a mistake of the driver.
    ///
    /// Example: a `plan.json` in which a line of WGSL was changed.
    ///
    /// Fix: compile again; if that does not help, report it with the output of `gatewright doctor`.
    KERNEL_REJECTED = "E0605", "a shader is refused";

    /// What: the plan contradicts itself or was made for another kind of device.
    ///
    /// Why: running it could read or write memory that belongs to another tensor.
    ///
    /// Example: a plan compiled for an eight-lane software driver, loaded on a graphics card.
    ///
    /// Fix: compile the specification again on this device.
    INVALID_PLAN = "E0606", "the plan cannot run here";

    /// What: the plan has no program, input, parameter or output of this name.
    ///
    /// Why: names are the interface between a plan and its data; a near miss is never guessed.
    ///
    /// Example:
    /// ```sh
    /// gatewright run model.gate --inputs x.safetensors   # holds `images`, the input is `image`
    /// ```
    /// Fix: use one of the names in the message.
    UNKNOWN_NAME = "E0607", "the plan has nothing of this name";

    /// What: a tensor has another shape or element type than its place in the plan.
    ///
    /// Why: sizes are fixed when the plan is made, and values are never cast silently.
    ///
    /// Example: an input of shape `[8, 16]` for `x: tensor[4, 16]`.
    ///
    /// Fix: give the tensor the stated shape, or compile for its size with `--set`.
    TENSOR_MISMATCH = "E0608", "a tensor does not fit";

    /// What: the device has no memory left for a buffer.
    ///
    /// Why: all memory of a run is allocated at its start; what fits then fits to the end.
    ///
    /// Example:
    /// ```sh
    /// gatewright train model.gate --set batch=4096
    /// ```
    /// Fix: use a smaller batch with more `accumulate`, a `budget = memory(…)`, or free the device.
    OUT_OF_MEMORY = "E0609", "out of device memory";

    /// What: the device stopped answering.
    ///
    /// Why: a driver reset after a hang, an unplugged or suspended device, or a fault in a shader.
    ///
    /// Example: the message of a run on a laptop that went to sleep.
    ///
    /// Fix: start again with `--resume`; the last checkpoint is intact.
    DEVICE_LOST = "E0610", "the device is lost";

    /// What: the device reports an error in how it was used.
    ///
    /// Why: this is a mistake of Gatewright, not of the specification.
    ///
    /// Example: none is known.
    ///
    /// Fix: report it with the message, the plan and the output of `gatewright doctor`.
    DEVICE_FAULT = "E0611", "the device reports a fault";

    /// What: a file or folder cannot be read or written.
    ///
    /// Why: the message holds the operating system's reason.
    ///
    /// Example:
    /// ```sh
    /// gatewright run model.gate --weights missing.safetensors
    /// ```
    /// Fix: check the path, the rights and the space left on the disk.
    FILE = "E0612", "a file cannot be used";

    /// What: a file of tensors is truncated, damaged or of another format.
    ///
    /// Why: a partly read checkpoint would train on silently. Checkpoints are written under a
    /// temporary name and renamed, so one of ours is damaged only from outside.
    ///
    /// Example: a download that stopped half way.
    ///
    /// Fix: fetch the file again, or delete it to resume from the checkpoint before it.
    DAMAGED_TENSORS = "E0613", "a tensor file is damaged";

    /// What: a tensor file and a model do not hold the same tensors.
    ///
    /// Why: a parameter that keeps its random value, or a tensor that goes nowhere, is a mistake far
    /// more often than a wish. Every missing, left-over and misshapen tensor is listed.
    ///
    /// Example: weights of the preset `large` loaded into the preset `small`.
    ///
    /// Fix: use the preset the file was made with, or a `weights` map that names or ignores the rest.
    TENSORS_DIFFER = "E0614", "the tensors of a file and of the model differ";

    /// What: a pattern of a `weights` map cannot be used.
    ///
    /// Why: both sides of a rule must name the same placeholders, or one side could not be computed
    /// from the other.
    ///
    /// Example: `"trunk.{i}.norm.scale" = "layers.{j}.ln.weight"`.
    ///
    /// Fix: use one name: `"layers.{i}.ln.weight"`.
    NAME_MAP = "E0615", "a weight map rule is wrong";

    /// What: a loss or a parameter became infinite or NaN.
    ///
    /// Why: every later step would be lost. The run stops before the next checkpoint, so the last
    /// one holds finite values.
    ///
    /// Example: a learning rate of 10.
    ///
    /// Fix: lower the learning rate, lengthen the warm-up or clip gradients; the message names the
    /// first place in the specification where the value appears when it could be found.
    NON_FINITE = "E0616", "a value is not finite";

    /// What: the data source could not give a batch.
    ///
    /// Why: the message holds the source's reason.
    ///
    /// Example: a shard that was deleted while training.
    ///
    /// Fix: restore the data and go on with `--resume`.
    BATCH = "E0617", "a batch cannot be made";

    /// What: the run folder belongs to another run.
    ///
    /// Why: continuing with another specification, seed or data would make a run that nobody can
    /// repeat, and starting over would overwrite results.
    ///
    /// Example:
    /// ```sh
    /// gatewright train model.gate --run runs/a --resume   # after editing model.gate
    /// ```
    /// Fix: give another `--run`, or restore the specification; `DIR/spec.gate` holds the original.
    RUN_FOLDER = "E0618", "the run folder holds another run";

    /// What: the data of a stage or evaluation cannot be used.
    ///
    /// Why: a file is missing or damaged, records lack a picture or a caption, the tokenizer knows more
    /// tokens than the input holds, or there are fewer records than a batch needs.
    ///
    /// Example:
    /// ```sh
    /// gatewright train model.gate --run runs/a --data pairs=no/such/file.tar
    /// ```
    /// Fix: the message names the file, the record and what to do.
    DATA = "E0619", "the data cannot be used";

    /// What: a stage cannot be trained: it states no data or no batch, one of its objectives reaches
    /// no parameter that trains, or two of its objectives mean different parameters by one path.
    ///
    /// Why: a step draws one source of `mix(…)` by its share, takes a whole batch from it and updates
    /// what the objective of that source reaches; all else rests, and what nothing updates is no
    /// training. With `accumulate = N` a step averages the gradients of N parts of its batch, and a
    /// contrastive loss compares examples of one part only: its negatives are those of `batch / N`
    /// rows.
    ///
    /// Example:
    /// ```text
    /// stage joint { data = mix(pairs: 0.7 -> paired, words: 0.3 -> language)   freeze = [text.*]   … }
    /// ```
    /// Fix: as the message says.
    UNSUPPORTED_STAGE = "E0620", "a stage that cannot be trained as it is stated";

    /// What: an evaluation cannot be carried out as it is stated.
    ///
    /// Why: measures that compare need two entries or values with one row for each record, classes need
    /// a text input, and a run needs to be there to be measured.
    ///
    /// Example:
    /// ```text
    /// eval lost { entry = embed_image   metrics = [recall(at: [1])] }
    /// ```
    /// Fix: the message says what is missing.
    EVALUATION = "E0621", "an evaluation that cannot be carried out";

    /// What: an alarm of the stage went off while it trained.
    ///
    /// Why: some runs go wrong while their losses look fine. A router that sends all tokens to one expert
    /// (`collapse`), an expert that no token chooses (`dead_expert`), a modality whose tokens are mostly
    /// dropped (`starved`) and a loss that never changes (`constant_loss`) are told after they have lasted
    /// for 200 steps, as warnings. A stage states other numbers, and what ends the run.
    ///
    /// Example:
    /// ```text
    /// stage pretrain {
    ///     alarms { dead_expert = stop(steps: 500)   starved = warn(success: 0.8)   collapse = none }
    ///     …
    /// }
    /// ```
    /// Fix: look at the router's curves in `report.html`. More of a balance loss, `priority = batch`, more
    /// capacity or a lower learning rate help routers; a constant loss usually has no gradient.
    ALARM = "E0622", "an alarm went off";

    /// What: a prompt, a picture, a tokenizer or a `generate` section from which no answer can come.
    ///
    /// Why: an answer to a prompt that was cut, or to another picture than was meant, would look like one.
    ///
    /// Example:
    /// ```sh
    /// gatewright generate model.gate --weights w.safetensors --prompt "What is this?"
    /// ```
    /// Fix: the message says what is missing. A picture comes from `--image`, room for a longer prompt from
    /// `--set` of the dim that the tokens' input has, a tokenizer from the section or from `--tokenizer`.
    GENERATION = "E0623", "nothing can be generated";

    /// What: data gives an input what an entry computes, and that cannot be had.
    ///
    /// Why: such results are computed once for each sample and kept, so the parameters of the entry
    /// must be known before the stage begins and may not train in it.
    ///
    /// Example:
    /// ```text
    /// data pictures { gives { code_image = image   codes = entry(tokenize) }   … }
    /// stage main { data = pictures   … }   // and nothing says where the parameters of `tokenize` come from
    /// ```
    /// Fix: put the stage `after` one that trains these parameters, load them with `init = load(…)`,
    /// and freeze what trains here.
    FROZEN = "E0624", "what an entry computes for data cannot be had";
}

#[cfg(test)]
mod tests {
    use super::EXPLANATIONS;

    #[test]
    fn pages_are_complete_and_in_order() {
        assert!(
            EXPLANATIONS
                .windows(2)
                .all(|pair| pair[0].code < pair[1].code)
        );
        for page in EXPLANATIONS {
            for part in ["What:", "Why:", "Example:", "Fix:"] {
                assert!(page.body.contains(part), "{} lacks {part}", page.code);
            }
        }
    }
}
