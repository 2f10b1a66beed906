# ruff: noqa: E501  (one pattern a row: a table is checked by eye, and a wrapped pattern cannot be)
"""Tables of the words by which people say that an answer was wrong, or right: patterns with their weights.

Invariant: plain data. The patterns are matched against lower-case text with single spaces (`cues.plain`). No
pattern depends on a subject of the embedded world, so the tables can be used for any conversation.
"""

_LEAD = r"(?:(?:oh|ugh|argh|hm+|um+|er+|hey|well|ok|okay|sorry|please|look|honestly|but|and|wait|listen|sigh|again|hello|seriously|come on|excuse me|for the last time|hang on|hold on|man|dude|lol|eh)[,.!: -]+)*"
"""Pattern of words that people say before they come to the point, such as "well" or "sorry"."""
_DOING = (
    r"(?:guess|assum|repeat|invent|mak|add|chang|touch|offer|suggest|giv|tell|ask|lectur|explain|apologi[sz]|"
    r"argu|second-guess|bother|rewrit|ignor|rambl|writ|echo|parrot|send|show|propos|interrogat|quot|pad|us|put|turn|summari[sz]|do)"
)

AGAINST: tuple[tuple[str, float], ...] = (
    # the beginning of a complaint
    (rf"^{_LEAD}no+(?=[,.!;:\u2026]|$| (?:that|it|this|i|you|not|the|we|do|don'?t|he|she|they|there|no|please|please,)\b)", 0.5),
    (rf"^{_LEAD}no+ \w", 0.3),
    (rf"^{_LEAD}(?:nope|nah)\b", 0.5),
    (rf"^{_LEAD}(?:wrong|incorrect|nonsense|rubbish|useless)\b", 0.6),
    (rf"^{_LEAD}not (?:that|this|what|like|quite|right|so|again|even|helpful|useful|good)\b", 0.5),
    (rf"^{_LEAD}not (?:the|an?|my|in|on) [\w-]+(?: [\w-]+)?[.,!]", 0.5),
    (rf"^{_LEAD}stop[.!]*$|\b(?:says?|means?|explains?) nothing\b|\bdoes (?:that|this|it) (?:look|sound|seem|read) \w+", 0.5),
    (rf"^{_LEAD}(?:stop|quit|enough|no more)\b", 0.4),
    (rf"^{_LEAD}enough (?:\w+s)\b", 0.2),
    (rf"^{_LEAD}[\w'\"-]+(?: [\w'\"-]+){{0,2}}, ?not [\w'\"-]+(?: [\w'\"-]+){{0,3}}(?:[.!]|$)", 0.6),
    (rf"^{_LEAD}(?:it|they|that|this|there|these|those) (?:is|are|does|do|did|was|were)[.!]", 0.5),
    (rf"^{_LEAD}(?:it'?s |that'?s |this is |still |way |a bit |far |much )*too (?:long|short|formal|informal|technical|vague|generic|complicated|complex|wordy|verbose|detailed|basic|simple|slow|small|big)\b", 0.5),
    (rf"^{_LEAD}(?:close|almost|nearly|not bad|better|good|nice|great|thanks|thank you|ok|okay|yes|sure|right)[,.]? (?:but|except|only that|however)\b", 0.45),
    (rf"^{_LEAD}(?:try|think|look|read|check|count|start|do it|calculate|search|guess)(?: (?:it|that|this|over|at \w+|more closely|carefully|once more))* (?:again|over|once more)\b", 0.5),
    (r"\b(?:check|look|count|read|test|verify) [\w ]{1,30} again\b", 0.45),
    (rf"^{_LEAD}(?:redo|start over|from scratch|one more time)\b", 0.5),
    (rf"^{_LEAD}less \w+", 0.5),
    (rf"^{_LEAD}(?:shorter|simpler|briefer|slower)\b", 0.5),
    (rf"^{_LEAD}(?:do not|don'?t|never) {_DOING}", 0.15),
    (r"\b(?:do not|don'?t|never|not to) (?:just |simply |always |ever )?(?:guess|assum|repeat|invent|lectur|argu|second-guess|interrogat|parrot|echo|rambl|patroni[sz]|make (?:things|stuff|it) up)", 0.35),
    (rf"^{_LEAD}just (?:the|do|tell|give|say|answer|one|a yes|\w+ it)\b", 0.5),
    (rf"^{_LEAD}(?:change it back|put (?:it|that) back|take (?:it|that) back|roll (?:it|that) back)\b", 0.5),
    (rf"^{_LEAD}(?:undo|revert|roll back)(?: (?:it|that|this|these|those|your|everything|all)\b| (?:the |my )?(?:last|previous|latest)\b|[.,!]|$)", 0.5),
    (rf"^{_LEAD}(?:do not|don'?t) do (?:that|this|it|so)\b|^{_LEAD}please answer\b|\banswer (?:me|(?:the|my) (?:\w+ )?question)\b", 0.5),
    (r"^(?:oh |well |no )?actually\b(?!,? (?:that'?s|that looks|perfect|yes|you))", 0.25),
    (r"\bwe (?:already |have already |had already )?(?:discussed|talked about|agreed|went over|settled) (?:this|that|on|it)\b", 0.5),
    (rf"^{_LEAD}(?:again|once more|read|try again|reread)[,:.! ]+(?:again|it again|that again|my \w+|the \w+ again|what i)", 0.5),
    (r"^(?:huh|what|excuse me|pardon)\?+!*(?: |$)", 0.25),
    # about the user's own words: "I said ..."
    (r"\bi (?:already |just |clearly |specifically |explicitly |literally )*(?:said|told you|asked for|asked you|asked how|asked where|asked who|asked when|asked what|asked if|asked whether)\b", 0.5),
    (r"\b(?:like|as) i (?:said|told you|asked)\b", 0.2),
    (r"\bi (?:only|just) (?:asked|wanted|needed|said|want|need)\b", 0.5),
    (rf"^{_LEAD}i meant\b", 0.2),
    (r"\bi was (?:asking|talking) about\b", 0.1),
    (r"\bi (?:meant|was asking|was talking about|wanted (?:it|the|an?|you|one|something|to))\b", 0.4),
    (r"\bi (?:did ?n'?o?t|did not|never) (?:ask|say|said|asked|want|wanted|tell|told|mention|mentioned|request|requested|need|give|gave|name|named|mean (?:that|this|the|it))\b", 0.65),
    (r"\b(?:did i|have i|when did i|where did i) (?:ever )?(?:ask|asked|say|said|tell|told|mention|mentioned)\b", 0.7),
    (r"\bwho (?:told you|asked you|asked for|said (?:that|so|anything))\b", 0.75),
    (r"\bi know (?:what|that) i (?:asked|said|wrote|typed)\b|\bi know my (?:own )?(?:question|words)\b", 0.7),
    (r"\b(?:that|this|it|which)(?:'?s| is| was| isn'?t| wasn'?t) ?(?:not |n'?t )?(?:exactly |really |at all )?(?:what|how|where|the one|the way|when) i\b", 0.45),
    (r"\bnot (?:at all )?(?:what|how|where|the one|the \w+|the way) i (?:asked|said|wanted|meant|needed|was|told|had|need|want|mean)\b", 0.7),
    (r"\b(?:said|asked for|wanted|meant|need|want)\b.{1,60}\bnot\b", 0.3),
    (r"\bi (?:have |'ve |had )?(?:already )?(?:decided|made up my mind)\b|\bmy mind is made up\b|\b(?:it|that)(?:'s| is) (?:settled|decided|my decision)\b|\bnot up for (?:debate|discussion)\b", 0.3),
    (r"\bi (?:wanted|needed) (?:\d+|one|two|three|four|five|six|ten|only|just|it|you|them|that)\b|\bi repeat[:,.]|\bi (?:already |just )?mentioned\b|\b(?:as|like) i (?:said|wrote|mentioned)\b", 0.5),
    (r"\bi (?:do ?n'?o?t|don'?t|do not) (?:want|like|need|care about|believe)\b|\bi hate\b", 0.45),
    (r"\bi need (?:\w+ ){1,4}(?:, )?not\b|\bthough[,.!]|\bthough$|^but\b", 0.25),
    # about the assistant: "you did ..."
    (r"\bwhy are you \w+ing\b", 0.1),
    (r"\byou(?:'re| are) not (?:\w+ing|even)\b", 0.5),
    (r"\bdid you (?:even|actually|really) \w+|\bcan(?:'t| ?not|not) you (?:just |even )?(?:read|listen|see|count)\b|\bare you even\b", 0.55),
    (rf"^{_LEAD}(?:it|they|that|this|there|he|she|these) (?:(?:do|does|did|is|are|was|were|has|have)(?:n'?t| not))\b(?=\s*(?:[.!,;]|$))", 0.5),
    (r"\byou(?:'re| are|r| were) (?:wrong|mistaken|guessing|not (?:listening|reading|answering)|missing|repeating|making|doing it again|confus|ignoring|still|overcomplicat|overthink|just)", 0.6),
    (r"\byou (?:just |simply |completely |totally |clearly |still |again |even )*(?:misunderstood|misread|misheard|ignored|forgot|missed|skipped|guessed|assumed|invented|changed|removed|deleted|broke|repeated|keep|kept|didn'?t|did not|haven'?t|have not|hadn'?t|never|left out|dropped|mixed|got (?:it|that|the|this|my|\w+ \w+) (?:wrong|backwards|mixed)|made (?:it|that|this|\w+) up|added|picked|chose|put (?:it|that) (?:in|on) the wrong|told me|gave me)\b", 0.5),
    (r"\bmade (?:it|that|this|things|stuff|\w+) up\b|\bhallucinat|\bpulled (?:it|that|this) out of\b", 0.6),
    (r"\bwhy (?:do|did|are|would|must|don'?t|didn'?t|can'?t|won'?t) you (?:even |just |always |keep |still |not |simply )*\w+", 0.45),
    (r"\bwhy (?:do you (?:keep|always)|are you (?:asking|telling|repeating|giving|guessing|doing|suggesting|still|changing|explaining)|would you (?:change|think|ask|assume|guess))", 0.25),
    (r"\bwhy (?:the|all the|all these|all this|so) (?:\w+)", 0.3),
    (r"\b(?:stop|quit|enough with|no more|drop|skip|lose|cut|save|without) (?:the |all |all the |all these |these |this |your |it with the |me the )?(?:\w+ing\b|questions?|alternatives?|ideas?|suggestions?|options?|essays?|lectures?|chatter|fluff|preamble|apologies|echo|guesses|summary|summaries|commentary|novel|repetition|chit-?chat|emojis?|disclaimers?|small talk|filler)", 0.55),
    (r"\bcut (?:to the chase|the (?:crap|chatter|fluff|talk))\b|\bget to the point\b", 0.55),
    (rf"\b(?:do not|don'?t|never|please not) (?:just |simply |always |ever |please )?{_DOING}\w*\b", 0.3),
    (r"\byou (?:should|could|might|ought to|need to|have to|are supposed to|were supposed to)(?:'ve| have)? (?:just |at least |really |better )?(?:have |'ve )?(?:ask|asked|say|said|told|tell|listen|check|checked|read|known|answer|given|stopp|look|object|warn|done|do\b|kept|keep)", 0.5),
    (r"\b(?:instead of|rather than|without|and not) (?:just )?(?:guess|assum|repeat|ask|mak|chang|tell|giv|suggest|rambl|lectur|do)\w*", 0.35),
    (r"\b(?:next time|in (?:the )?future|from now on|once and for all)\b", 0.3),
    (r"\b(?:too|way too|far too|so|waaay too) (?:long|short|much (?:text|detail|information|info|talk)|many (?:words|questions|options|steps)|wordy|verbose|complicated|vague|chatty|long-winded)\b", 0.45),
    (r"\b(?:that|this|it|which|answer)(?:'s| is| was|) (?:way |far |much |still |a bit |again )?(?:too|so) \w+", 0.2),
    (r"\b(?:wall of text|long-?winded|an? (?:whole )?(?:essay|novel|lecture|speech|sermon|manual|book)\b)", 0.45),
    (r"\b(?:be|keep it|make it|answer|say it) (?:more )?(?:brief|briefer|short|shorter|concise|briefly|simpler|simple)\b", 0.3),
    (r"\b(?:in )?one (?:line|sentence|word)\b", 0.2),
    (r"\byou (?:do not|don'?t|need not|needn'?t) (?:have to|need to)? ?(?:tell|say|repeat|explain|ask|read|write|apologi[sz]e|remind|list|guess)\b", 0.5),
    (r"\bno need to (?:tell|say|repeat|explain|ask|read|write|apologi[sz]e|remind|list|echo)\b", 0.9),
    (r"\bspare me\b|\bare you (?:kidding|joking|serious)\b|\bseriously\?|\bwtf\b|\bffs\b|\bnot even close\b", 0.5),
    (r"\bleave (?:the rest|it|that|everything|the other|them|\w+ \w+) (?:alone|as (?:it|they|is))\b", 0.5),
    # about the answer: "that is ..."
    (r"\b(?:longer|shorter|slower|worse|harder|bigger|more \w+) than (?:before|the (?:original|first|last|old|other)|it was)\b|\beven worse\b|\bmade it worse\b", 0.5),
    (r"\b(?:should|ought to|must|has to|needs to) be\b|\bshould(?:n'?t| not) (?:be|have)\b|\bis supposed to\b", 0.3),
    (r"\b(?:looks?|seems?|sounds?|feels?) (?:\w+ )?(?:wrong|off|odd|weird|broken|strange|fishy)\b|\b(?:doesn'?t|does not|don'?t) (?:look|seem|sound|feel) (?:right|like|good|correct)\b|\b(?:looks|seems) \w+ to me\b", 0.45),
    (r"\b(?:the )?same (?:error|problem|issue|result|mistake|thing|answer|output)\b|\bnot working\b|\bnothing (?:changed|happens|happened)\b|\bfail(?:s|ed|ing)? again\b", 0.5),
    (r"^(?:but )?(?:that|this|it|these)(?:'?s| is| are) (?:still )?not (?:the|my|an?)\b", 0.15),
    (r"\b(?:that|this|it|these)(?:'?s| is| are) (?:still )?not (?:an? )?\w+", 0.35),
    (r"\b(?:is|are|was|were)(?:n'?t) \w+(?:\.\.\.|\u2026|[.!]*$)", 0.3),
    (r"\bother way (?:a)?round\b|\bplease fix (?:it|that|this)\b|\bfix (?:it|that)\b", 0.25),
    (r"\b(?:that|this|it|answer|they|these|those)(?:'?s| is| was| are|'re| were)? (?:just |simply |all |completely |totally |still |plain |also )*(?:wrong|incorrect|false|nonsense|useless|rubbish|garbage|backwards|outdated|broken|made up|no help|a guess|nowhere near|the opposite|the wrong)\b", 0.6),
    (r"\b(?:that|this|it|they|these)(?:'?s| is| was| are)? ?(?:not|isn'?t|wasn'?t|aren'?t|isnt) (?:even |quite |really |at all |actually )?(?:right|correct|it|true|helpful|an answer|the (?:\w+ )?(?:question|answer|same|one|point|file|place)|enough|complete|funny|good|useful|possible|how|what)\b", 0.6),
    (r"\b(?:that|this|it) (?:does ?n'?o?t|does not|did ?n'?o?t|did not|doesnt|still|won'?t|never) (?:even |really |actually )?(?:answer|work|compile|help|match|make sense|exist|address|run|fix|fails?|fit|say|do what|crash|tell|prove|solve|cover|include|explain)", 0.5),
    (r"\bstill (?:wrong|not|doesn'?t|does not|broken|fail\w*|the same|no|nothing|getting|missing|too)\b", 0.5),
    (r"\b(?:there is|there'?s) no such\b|\b(?:doesn'?t|does not) exist\b", 0.5),
    (r"\bwrong (?:one|file|place|day|thing|person|way|branch|answer|again|number|table|function|language|version|order|format|direction|unit|units|column|name)\b", 0.5),
    (r"\b(?:beside|besides|miss\w*|missing) the point\b|\bnot the point\b|\boff topic\b|\bnot helpful\b|\bunhelpful\b", 0.5),
    (r"\bwhere did you get\b|\bsays who\b|\bhow (?:would|could|can) you (?:possibly )?know\b", 0.5),
    (r"\bthe opposite\b|\bother way (?:a)?round\b|\bmixed up\b", 0.35),
    (r"\bplease,? no\b|\bnot again\b|\bagain\?+!*|\bhow many times\b|\bfor the (?:second|third|last|\w+th) time\b", 0.45),
    (r"\b(?:obey|do as (?:i|you)|do what (?:i|you)|what i said|do it anyway|i insist|that is an order|that'?s an order)\b", 0.35),
    (r"\b(?:un(?:asked|requested|necessary|wanted|needed)|nobody asked|no one asked|needless)\b", 0.55),
    (r"!{2,}|\?{3,}", 0.1),
)  # fmt: skip
"""Patterns that mean "that was wrong", each with the score that a match adds."""

HARMLESS: tuple[tuple[str, float], ...] = (
    (r"^(?:oh |ah |well |ok |hm+ )?no+,? (?:problem|worries|thanks|thank you|thx|need|rush|hurry|idea|doubt|offen[cs]e|matter|pressure|biggie|wonder|question|further|other|complaints|changes|just kidding|kidding|way|one|objections?|news)\b", 0.8),
    (r"^(?:oh |well )?no+[,.!]? (?:that'?s|that is|it'?s|this is|that will be|everything is) (?:all|it|everything|fine|ok|okay|good|perfect|great|right|correct|alright|enough for|cool)\b", 0.9),
    (r"^no+[,.!]? ?(?:go ahead|not yet|not really|nothing|none|never|nobody|not at all|don'?t worry|leave it|keep going|please (?:do|go|continue)|just curious|i'?m (?:good|fine|done|ok|all set))\b", 0.7),
    (r"^no+[,.!]? (?:i|we|he|she|they|it|there|the \w+|my \w+|mine|ours) (?:have ?n'?o?t|haven'?t|hasn'?t|has not|have no|have only|do ?n'?o?t have|do not have|don'?t (?:know|think|see|use|need any|mind|own|believe)|do not|am|am not|is|'m|'s|are|was|were|will|would|can'?t|cannot|had|has|only|never (?:saw|seen|tried|used|had|been))\b", 0.45),
    (r"^(?:please )?(?:can|could|would|will) (?:you|i|we) (?:please |just |also |maybe |now )*", 0.35),
    (r"^(?:what if|how (?:do|can|should|would|does|long|much|many|about)|what(?:'s| is| are| does| do)|why (?:is|does|are they|was)|where|who|when|which|is there|are there|does|is it|should)\b", 0.25),
    (r"\bnot sure\b|\bi do ?n'?o?t (?:know|remember|mind)\b|\bno idea\b|\bnot bad\b|\bwhy not\b|\bno complaints\b|\bcan'?t complain\b|\bnot a problem\b|\bdon'?t worry\b|\bnever ?mind\b", 0.5),
    (r"\bwhat(?:'s| is| was| went)? (?:wrong|incorrect)\b|\bwrong with\b|\bsomething (?:is |went |seems )?wrong\b|\bgo(?:es|ing)? wrong\b|\bif (?:i'?m|it'?s|that'?s|something'?s) wrong\b|\bam i wrong\b|\bor (?:wrong|not)\b|\bcorrect me\b", 0.6),
    (r"\bmy (?:fault|bad|mistake)\b|\bi (?:was wrong|misread|misspoke|made a mistake|made a typo|mistyped|forgot|was mistaken)\b|\bsorry,? (?:i|my) (?:meant|typo|mistake|bad)", 0.6),
    (r"\b(?:that|this|it)(?:'?s| is| was)? (?:not|n'?t) (?:your fault|bad|a (?:big )?(?:deal|problem|issue)|urgent|important|expensive|far|too bad)\b", 0.6),
    (r"\bfor (?:now|today),? (?:that|it)\b|\bin the meantime\b|\bout of curiosity\b|\bi'?m curious\b|\bjust (?:curious|wondering|checking)\b", 0.4),
    (r"^(?:ok(?:ay)?|right|sure|alright|great|good|cool|perfect|nice|excellent|yes|yeah|yep)\b[,.! ]*(?!.*\b(?:but|however|except|though|wrong)\b)", 0.35),
    (r"\b(?:he|she|they|my (?:boss|wife|husband|colleague|manager|teacher|doctor|son|daughter|friend|mother|father|client|supervisor|professor|team|reviewer|editor|partner|coach|parents?|neighbou?r)|the (?:client|reviewer|teacher|doctor|landlord|boss|manager|customer|man|driver)) (?:said|told|asked|keeps?|never|did ?n'?o?t|forgot)\b", 0.5),
    (r"^(?:and|he|she|they|then|now|translate|next|the \w+|my \w+)\b[^.!?:]{0,30}: ", 0.6),
    (r"\bi (?:always |often |never |usually |keep )?(?:get|got|getting) (?:that|it|this|them) wrong\b|^oh no\b|\bguess(?:ed|ing)? (?:it|that)\b.{0,3}$", 0.5),
    (r"^(?:please |now |then |and |also )*(?:write|draft|compose|translate|explain|proofread)\b|\b(?:rewrite this|summari[sz]e this|here(?:'s| is) (?:the|my|a)|the error (?:is|says)|traceback|i(?:'m| am) getting)\b", 0.3),
)  # fmt: skip
"""Patterns that only look like a complaint, each with the score that a match takes away."""

FOR: tuple[tuple[str, float], ...] = (
    (r"\bperfect(?:ly)?\b|\bexactly\b|\bspot on\b|\bbrilliant\b|\bexcellent\b|\bwonderful\b|\bbravo\b|\bnailed it\b|\bflawless\b", 0.6),
    (r"\bthat(?:'s| is| was)(?: just| exactly)? (?:it|right|correct|better|what i|how i|good|great|the way|much better|all i)\b|\bthis is (?:it|right|what i|great|how i)\b", 0.55),
    (r"\b(?:much|way|far|a lot) better\b|^(?:ah |oh |yes,? |right,? )?better\b|\bas it should be\b", 0.5),
    (r"\byou(?:'re| are| were) (?:absolutely |quite |so )?right\b|\bi was wrong\b", 0.5),
    (r"\b(?:well done|good (?:job|work|answer|catch|call|point|bot|one|thinking)|nice (?:work|job|one|catch)|great (?:job|work|answer|catch|stuff)|(?:love|like|liked|loved) (?:it|that|this|how)|works (?:great|now|perfectly|like a charm)|it works|right answer|very (?:good|nice|helpful|clear)|so helpful|how it should)\b", 0.55),
    (r"\bthank(?:s| you)\b|\bthx\b|\bcheers\b|\bty\b", 0.3),
    (r"\b(?:great|good|lovely|nice|super|awesome|fantastic|helpful|clear|glad|fine|happy|short and|sweet)\b", 0.3),
    (r"^(?:yes|yep|yeah|right|correct|precisely|indeed|true)\b", 0.25),
)  # fmt: skip
"""Patterns that mean "that was right", each with the score that a match adds."""
