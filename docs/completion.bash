# Completion of python -m nas.…: source docs/completion.bash
# In zsh, first: autoload -U bashcompinit && bashcompinit
# Down to _nas made by python docs/completion.py.

_nas_commands="nas.compare nas.cost nas.export nas.report nas.scale nas.search nas.train"
_nas_trained="nas.compare nas.cost nas.export nas.report nas.train"

_nas_options() {
    case $1 in
        nas.compare) echo "--out --seed" ;;
        nas.cost) echo "--batch --channels --check --classes --device --families --json --latency --max-activations --max-flops --max-latency --max-madds --max-memory --max-params --min-activations --min-flops --min-latency --min-madds --min-memory --min-params --out --resolution --space --threads" ;;
        nas.export) echo "" ;;
        nas.report) echo "--live --out --port" ;;
        nas.scale) echo "--baseline --coefficients --data --device --epochs --gpus-per-trial --keep --match --max-activations --max-flops --max-latency --max-madds --max-memory --max-params --measure --metric --min-activations --min-flops --min-latency --min-madds --min-memory --min-params --no-measure --no-skip-broken --phi --published --ray --recheck --recipe --resize --resolution-step --rule --run --seed --seeds --skip-broken --step --storage --target --tolerance --train --workers" ;;
        nas.search) echo "--confirm --data --device --epochs --from --gpus-per-trial --image-size --max-activations --max-flops --max-latency --max-madds --max-memory --max-params --metric --min-activations --min-flops --min-latency --min-madds --min-memory --min-params --no-fit --no-skip-broken --objectives --ray --recheck --recipe --resize --resolution --reward --run --sampler --seed --skip-broken --space --storage --target-madds --time-budget --trials --width --workers" ;;
        nas.train) echo "--batch-size --compile --data --device --epochs --freeze --image-size --metric --microbatches --no-skip-broken --pretrained --recheck --recipe --resize --run --seed --skip-broken --tensorboard --test --unfreeze" ;;
    esac
}

_nas_values() {
    case $1 in
        --baseline) echo "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_lite0 efficientnet_v2_b0 efficientnet_v2_b1 efficientnet_v2_b2 efficientnet_v2_b3 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s mnasnet_a1 mobilenet_v2" ;;
        --data) echo "fashion-mnist-20k fashion-mnist cifar10 cifar100 digits fashion-mnist-12k" ;;
        --device) echo "auto cpu cuda mps" ;;
        --freeze) echo "features none" ;;
        --match) echo "nominal counted" ;;
        --objectives) echo "accuracy,madds accuracy,flops accuracy,params accuracy,activations accuracy,memory accuracy,latency accuracy,train_time" ;;
        --pretrained) echo "torchvision" ;;
        --ray) echo "auto" ;;
        --recipe) echo "default efficientnet_v1 efficientnet_v2 finetune proxy" ;;
        --reward) echo "hard soft v2" ;;
        --rule) echo "auto compound depth width resolution fast" ;;
        --sampler) echo "auto tpe nsga2 random" ;;
        --space) echo "efficientnet_v1 efficientnet_v2 mnas" ;;
        --to) echo "safetensors pt2 onnx int8 timm" ;;
    esac
}

_nas_published() {
    case $1 in
        nas.cost) echo "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_lite0 efficientnet_v2_b0 efficientnet_v2_b1 efficientnet_v2_b2 efficientnet_v2_b3 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s mnasnet_a1 mobilenet_v2" ;;
        nas.train) echo "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_lite0 efficientnet_v2_b0 efficientnet_v2_b1 efficientnet_v2_b2 efficientnet_v2_b3 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s mnasnet_a1 mobilenet_v2" ;;
    esac
}

_nas() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command="" words="" i
    for ((i = 1; i < COMP_CWORD - 1; i++)); do
        [[ ${COMP_WORDS[i]} == -m ]] && command=${COMP_WORDS[i + 1]} && break
    done
    if [[ $before == -m ]]; then
        words=$_nas_commands
    elif [[ $command == nas.* && $word == -* ]]; then
        words=$(_nas_options "$command")
    elif [[ $command == nas.* && $before == --* ]]; then
        words=$(_nas_values "$before")
        [[ $before == --baseline ]] && words+=" $(ls runs 2>/dev/null)"
    elif [[ $command == nas.* ]]; then
        words=$(_nas_published "$command")
        [[ " $_nas_trained " == *" $command "* ]] && words+=" $(ls runs 2>/dev/null)"
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}

complete -o default -F _nas python python3 # files where nothing is known
